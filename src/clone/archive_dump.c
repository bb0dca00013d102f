/* archive_dump.c - blue at the snapshot into a directory that appears whole or not at all. */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "sys/file.h"
#include "sys/process.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>

struct dump_progress {
    const char *dir;
    int64_t total;
    int ticks;
};

bool archive_exists(const char *dir)
{
    char *toc = xstrfmt("%s/toc.dat", dir);
    bool yes = file_exists(toc);
    free(toc);
    return yes;
}

/* The archive is text, the total is pages: an estimate, which must not pass its end. */
static void tick(void *ctx)
{
    struct dump_progress *p = ctx;
    struct error ignored = {0};
    int64_t bytes = 0;

    if (p->ticks++ % 4 != 0 || !file_tree_size(p->dir, &bytes, &ignored))
        return;
    if (p->total > 0 && bytes > p->total)
        bytes = p->total;
    event_progress("dump", bytes, p->total, "bytes");
}

static bool move_into_place(const char *part, const char *dir, struct error *err)
{
    char *copy = xstrdup(dir);
    bool ok = file_sync_dir(part, err);

    if (ok && rename(part, dir) != 0)
        ok = error_set_errno(err, errno, "could not rename \"%s\" to \"%s\"", part, dir);
    ok = ok && file_sync_dir(dirname(copy), err);
    free(copy);
    return ok;
}

static bool run_dump(const struct archive_options *o, const char *part, struct error *err)
{
    struct tool t = {0};
    struct dump_progress progress = {.dir = part, .total = o->total_bytes};
    char *snapshot = xstrfmt("--snapshot=%s", o->snapshot ? o->snapshot : "");
    char *file = xstrfmt("--file=%s", part);
    char *encoding = xstrfmt("--encoding=%s", o->encoding ? o->encoding : "");
    const char *argv[16];
    size_t n = 0;
    /* pg_dump pins what it prints by itself; it syncs every file before it ends */
    bool ok = tool_find(&t, "pg_dump", "dump", "", o, err);

    if (ok) {
        argv[n++] = t.path;
        argv[n++] = "--format=directory";
        argv[n++] = t.jobs;
        if (o->snapshot)
            argv[n++] = snapshot;
        /* else it takes the client_encoding that blue's database or role is set to, into which not
         * every value may go */
        if (o->encoding)
            argv[n++] = encoding;
        if (!o->compress)
            argv[n++] = "--compress=0";
        argv[n++] = "--no-publications";
        argv[n++] = "--no-subscriptions";
        argv[n++] = "--exclude-schema=pgcutover";
        argv[n++] = "--no-password";
        argv[n++] = file;
        argv[n] = NULL;
        struct process_options options = {
            .argv = argv, .env = t.env, .log_path = o->log_path, .tick = tick, .ctx = &progress};
        ok = process_run(&options, err) || tool_failed(err);
    }
    tool_release(&t);
    free(snapshot);
    free(file);
    free(encoding);
    return ok;
}

static void dump_hint(const struct archive_options *o, struct error *err)
{
    if (err->code != ERR_CHILD || err->hint[0])
        return;
    if (strstr(err->detail, "invalid snapshot identifier"))
        error_hint(err,
                   "The session that exported the snapshot has ended: abort, and begin again.");
    else if (strstr(err->detail, "could not obtain lock on relation"))
        error_hint(err, "Something on blue locks tables exclusively (TRUNCATE, VACUUM FULL) while "
                        "several connections dump. Stop it for that long, or set [clone] jobs = 1; "
                        "then abort and run anew.");
    else
        error_hint(err, "The whole output of pg_dump is in %s.",
                   o->log_path ? o->log_path : "the log");
}

bool archive_dump(const struct archive_options *o, struct error *err)
{
    char *part = xstrfmt("%s.part", o->dir);
    bool ok = true;

    if (file_exists(o->dir)) {
        error_set(err, ERR_IO, "\"%s\" exists already", o->dir);
        ok = error_hint(err, "Move it away if it is still wanted, delete it if not.");
    }
    ok = ok && file_remove_tree(part, err) && run_dump(o, part, err) &&
         move_into_place(part, o->dir, err);
    if (ok) {
        struct error ignored = {0};
        int64_t bytes = 0;
        if (file_tree_size(o->dir, &bytes, &ignored))
            event_progress("dump", bytes, bytes, "bytes");
    } else {
        dump_hint(o, err);
    }
    free(part);
    return ok;
}
