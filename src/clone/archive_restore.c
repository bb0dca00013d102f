/* archive_restore.c - the archive into green, without what is ours on blue; then statistics. */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "sys/file.h"
#include "sys/process.h"

#include <stdlib.h>
#include <sys/stat.h>

#define LISTING_CEILING ((size_t) 1 << 30)

/* Beside the archive, whose directory is left as pg_dump made it. */
static bool write_list(const struct archive_options *o, const struct tool *t, const char *path,
                       struct restore_list *list, struct error *err)
{
    const char *argv[] = {t->path, "--list", o->dir, NULL};
    struct strbuf listing = {0};
    struct process_options options = {.argv = argv,
                                      .env = t->env,
                                      .log_path = o->log_path,
                                      .out = &listing,
                                      .out_ceiling = LISTING_CEILING};
    bool ok = process_run(&options, err);

    if (ok) {
        restore_list_filter(list, strbuf_cstr(&listing));
        ok = file_replace(path, strbuf_cstr(&list->text), list->text.len, 0600, err);
    }
    strbuf_release(&listing);
    return ok;
}

static int64_t file_length(const char *path)
{
    struct stat sb;
    return path && stat(path, &sb) == 0 ? sb.st_size : 0;
}

/* pg_restore wants its database named; libpq would take a name with '=' or a scheme for a whole
 * conninfo. */
static bool database_option(const struct archive_options *o, char **option, struct error *err)
{
    char *name = NULL;
    struct strbuf sb = {0};

    if (!o->dbname && !pg_conninfo_dbname(o->conninfo, &name, err))
        return false;
    const char *plain = o->dbname ? o->dbname : name;
    strbuf_addstr(&sb, "--dbname=");
    if (strchr(plain, '=') || strstr(plain, "://")) {
        strbuf_addstr(&sb, "dbname='");
        for (const char *p = plain; *p; p++) {
            if (*p == '\'' || *p == '\\')
                strbuf_addch(&sb, '\\');
            strbuf_addch(&sb, *p);
        }
        strbuf_addch(&sb, '\'');
    } else {
        strbuf_addstr(&sb, plain);
    }
    free(name);
    *option = strbuf_take(&sb);
    return true;
}

static bool run_restore(const struct archive_options *o, const struct tool *t,
                        const char *list_path, struct restore_progress *progress, struct error *err)
{
    char *database = NULL;
    char *list = xstrfmt("--use-list=%s", list_path);
    bool ok = database_option(o, &database, err);

    if (ok) {
        const char *argv[] = {t->path,     "--format=directory",
                              t->jobs,     "--exit-on-error",
                              "--verbose", "--no-password",
                              database,    list,
                              o->dir,      NULL};
        struct process_options options = {.argv = argv,
                                          .env = t->env,
                                          .log_path = o->log_path,
                                          .tick = restore_progress_tick,
                                          .ctx = progress};
        int64_t log_from = file_length(o->log_path);
        progress->log_at = log_from;
        ok = process_run(&options, err) || tool_failed(err) || restore_explain(o, log_from, err);
    }
    free(database);
    free(list);
    return ok;
}

bool archive_restore(const struct archive_options *o, struct error *err)
{
    struct tool t = {0};
    struct restore_list list = {0};
    struct restore_progress progress = {.o = o};
    struct error ignored = {0};
    char *list_path = xstrfmt("%s.list", o->dir);
    bool ok = false;

    if (!archive_exists(o->dir)) {
        error_set(err, ERR_IO, "\"%s\" holds no whole archive", o->dir);
        error_hint(err, "Dump again.");
        goto out;
    }
    /* nothing is lost with a crash of green's host here: the restore is then made again. ANALYZE's
     * commits, at the end, make all before them durable. */
    if (!tool_find(&t, "pg_restore", "restore", " -c synchronous_commit=off", o, err) ||
        !write_list(o, &t, list_path, &list, err))
        goto out;
    if (list.left_out > 0)
        event_info("left out of the restore: %zu objects of pgcutover's own", list.left_out);
    progress.entries = list.entries;
    if (!file_tree_size(o->dir, &progress.total_bytes, &ignored))
        progress.total_bytes = 0;
    if (!run_restore(o, &t, list_path, &progress, err))
        goto out;
    event_progress("restore data", progress.total_bytes, progress.total_bytes, "bytes");
    event_progress("restore", (int64_t) list.entries, (int64_t) list.entries, "objects");
    ok = clone_analyze(o, err);
out:
    restore_progress_release(&progress);
    strbuf_release(&list.text);
    tool_release(&t);
    if (!file_remove_tree(list_path, &ignored))
        event_warn("%s", ignored.message);
    free(list_path);
    return ok;
}
