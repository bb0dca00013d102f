#include "run/rundir.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "sys/file.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAST_SUFFIX 999

char *rundir_base(const char *option)
{
    const char *env = getenv("PGCUTOVER_DIR");

    if (option)
        return xstrdup(option);
    return xstrdup(env && *env ? env : "runs");
}

char *rundir_file(const struct rundir *d, const char *name)
{
    return xstrfmt("%s/%s", d->path, name);
}

void rundir_release(struct rundir *d)
{
    if (d->lock_fd > 0)
        close(d->lock_fd);
    free(d->path);
    free(d->name);
    *d = (struct rundir){.lock_fd = -1};
}

const char *rundir_ended(const struct journal *j)
{
    const char *how = NULL;

    for (size_t i = 0; i < journal_count(j); i++) {
        const json_t *rec = journal_at(j, i);
        const char *type = json_string_value(json_object_get(rec, "type"));

        if (type && strcmp(type, "ended") == 0)
            how = json_string_value(json_object_get(rec, "how"));
    }
    return how;
}

bool rundir_end(struct journal *j, const char *how, struct error *err)
{
    return journal_add(j, "ended", json_pack("{s:s}", "how", how), err);
}

static bool is_run(const char *path)
{
    char *journal = xstrfmt("%s/journal.jsonl", path);
    bool yes = file_exists(journal);

    free(journal);
    return yes;
}

static bool has_ended(const char *path, bool *ended, struct error *err)
{
    struct journal *j = NULL;

    *ended = true;
    if (!is_run(path))
        return true;
    if (!journal_read(&j, path, err))
        return false;
    *ended = rundir_ended(j) != NULL;
    journal_close(j);
    return true;
}

static bool take(struct rundir *out, const char *path, struct error *err)
{
    char *real = realpath(path, NULL);

    if (!real)
        return error_set_errno(err, errno, "run directory %s", path);
    *out = (struct rundir){.path = real, .lock_fd = -1};
    out->name = xstrdup(strrchr(real, '/') + 1);
    return true;
}

bool rundir_create(struct rundir *out, const char *base, const char *name, struct error *err)
{
    *out = (struct rundir){.lock_fd = -1};
    if (!file_make_dir(base, err))
        return false;
    for (int n = 1; n <= LAST_SUFFIX; n++) {
        char *path = n == 1 ? xstrfmt("%s/%s", base, name) : xstrfmt("%s/%s-%d", base, name, n);
        bool ended = true, ok = true;

        if (mkdir(path, 0700) == 0) {
            ok = take(out, path, err) && rundir_lock(out, err) && file_sync_dir(base, err);
            free(path);
            return ok;
        }
        if (errno != EEXIST)
            ok = error_set_errno(err, errno, "could not make %s", path);
        else if (has_ended(path, &ended, err) && !ended) {
            ok = error_set(err, ERR_LOCKED, "run %s in %s has not ended", strrchr(path, '/') + 1,
                           base);
            error_hint(err,
                       "Go on with it: `pgcutover resume %s`, or end it: `pgcutover abort %s`.",
                       path, path);
        } else {
            ok = err->code == ERR_NONE;
        }
        free(path);
        if (!ok)
            return false;
    }
    return error_set(err, ERR_IO, "too many runs of the name %s in %s", name, base);
}

static bool find_only_live(char **path, const char *base, struct error *err)
{
    char **names = NULL;
    size_t n = 0, live = 0;
    struct strbuf list = {0};
    bool ok = true;

    *path = NULL;
    if (file_exists(base) && !file_list(base, &names, &n, err))
        return false;
    for (size_t i = 0; i < n && ok; i++) {
        char *one = xstrfmt("%s/%s", base, names[i]);
        bool ended = true;

        ok = has_ended(one, &ended, err);
        if (ok && !ended) {
            live++;
            strbuf_addf(&list, "%s%s", list.len ? ", " : "", names[i]);
            free(*path);
            *path = xstrdup(one);
        }
        free(one);
    }
    if (ok && live != 1) {
        ok = live == 0 ? error_set(err, ERR_USAGE, "no run in %s is under way", base)
                       : error_set(err, ERR_USAGE, "%zu runs in %s are under way: %s", live, base,
                                   list.data);
        error_hint(err, live == 0 ? "Name a run or its directory; `pgcutover list` shows them."
                                  : "Say which one.");
    }
    file_free_list(names);
    strbuf_release(&list);
    return ok;
}

bool rundir_find(struct rundir *out, const char *base, const char *arg, struct error *err)
{
    char *path = NULL;
    bool ok;

    *out = (struct rundir){.lock_fd = -1};
    if (!arg) {
        if (!find_only_live(&path, base, err)) {
            free(path);
            return false;
        }
    } else {
        path = xstrfmt("%s/%s", base, arg);
        if (strchr(arg, '/') || !is_run(path)) {
            free(path);
            path = xstrdup(arg);
        }
        if (!is_run(path)) {
            ok = error_set(err, ERR_USAGE, "there is no run %s", arg);
            error_hint(err, "`pgcutover list` shows the runs in %s; --dir looks elsewhere.", base);
            free(path);
            return ok;
        }
    }
    ok = take(out, path, err);
    free(path);
    return ok;
}

bool rundir_lock(struct rundir *d, struct error *err)
{
    char *path = rundir_file(d, "lock");
    bool ok = file_lock(path, &d->lock_fd, err);

    free(path);
    if (!ok && err->code == ERR_LOCKED) {
        error_set(err, ERR_LOCKED, "another process works on run %s", d->name);
        error_hint(err, "`pgcutover status %s` shows it; `pgcutover control %s stop` stops it.",
                   d->path, d->path);
    }
    return ok;
}
