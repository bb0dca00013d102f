/*
 * restore_progress.c - pg_restore says in its log what it launches and finishes; the server says
 * how far running COPYs and index builds are. Out of the same log an error is put together that
 * names the entry at fault.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_CHUNK ((size_t) 65536)
#define LOG_TAIL ((int64_t) 65536)
#define ANSWER_MS 2000
static const char says[] = "pg_restore: ";

static const char *after(const char *line, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(line, prefix, n) == 0 ? line + n : NULL;
}

/* The data file of entry id; both spellings are tried. */
static int64_t data_size(const char *dir, long id)
{
    static const char *const ends[] = {"", ".gz"};
    struct stat sb;
    for (size_t i = 0; i < 2; i++) {
        char *path = xstrfmt("%s/%ld.dat%s", dir, id, ends[i]);
        int rc = stat(path, &sb);
        free(path);
        if (rc == 0)
            return sb.st_size;
    }
    return 0;
}

/* With one job it only says what it begins. */
static void take_line(struct restore_progress *p, const char *line)
{
    const char *text = after(line, says);
    const char *what;

    if (!text)
        return;
    if ((what = after(text, "finished item ")) || (what = after(text, "processing item "))) {
        char *end;
        long id = strtol(what, &end, 10);
        p->finished++;
        if (after(end, " TABLE DATA ") || after(end, " BLOBS "))
            p->bytes += data_size(p->o->dir, id);
    } else if ((what = after(text, "launching item "))) {
        snprintf(p->current, sizeof p->current, "%s", what + strspn(what, "0123456789 "));
    } else if (p->o->jobs <= 1 && ((what = after(text, "creating ")) ||
                                   (what = after(text, "processing data for ")))) {
        p->finished++;
        snprintf(p->current, sizeof p->current, "%s", what);
    }
}

static void take_text(struct restore_progress *p, const char *text, size_t len)
{
    while (len > 0) {
        const char *nl = memchr(text, '\n', len);
        size_t n = nl ? (size_t) (nl - text) : len;
        strbuf_add(&p->partial, text, n);
        if (!nl)
            return;
        take_line(p, strbuf_cstr(&p->partial));
        strbuf_reset(&p->partial);
        text += n + 1;
        len -= n + 1;
    }
}

static void read_log(struct restore_progress *p)
{
    int fd = p->o->log_path ? open(p->o->log_path, O_RDONLY | O_CLOEXEC) : -1;
    char *chunk = xmalloc(LOG_CHUNK);
    ssize_t n;

    while (fd >= 0 && (n = pread(fd, chunk, LOG_CHUNK, p->log_at)) > 0) {
        p->log_at += n;
        take_text(p, chunk, (size_t) n);
    }
    free(chunk);
    if (fd >= 0)
        close(fd);
}

/* Bytes that running COPYs have read; index builds as events of their own. Silent when it can't be
 * asked. */
static int64_t ask_server(const struct restore_progress *p)
{
    struct pg *pg = p->o->watch;
    struct error ignored = {0};
    PGresult *res = NULL;
    int64_t bytes = 0;
    const char *sql = pg_version(pg) >= 140000
                          ? "SELECT '' AS name, coalesce(pg_catalog.sum(bytes_processed), "
                            "0)::bigint AS done, 0::bigint AS total "
                            "FROM pg_catalog.pg_stat_progress_copy WHERE datname = "
                            "pg_catalog.current_database() UNION ALL "
                            "SELECT relid::pg_catalog.regclass::text, blocks_done, blocks_total "
                            "FROM pg_catalog.pg_stat_progress_create_index WHERE datname = "
                            "pg_catalog.current_database()"
                          : "SELECT relid::pg_catalog.regclass::text, blocks_done, blocks_total "
                            "FROM pg_catalog.pg_stat_progress_create_index WHERE datname = "
                            "pg_catalog.current_database()";

    pg_set_deadline(pg, clock_in_ms(ANSWER_MS));
    bool ok = pg_query(pg, &res, PG_ANY, sql, 0, NULL, &ignored);
    pg_set_deadline(pg, CLOCK_NONE);
    for (int i = 0; ok && i < PQntuples(res); i++) {
        const char *name = PQgetvalue(res, i, 0);
        int64_t done = strtoll(PQgetvalue(res, i, 1), NULL, 10);
        int64_t total = strtoll(PQgetvalue(res, i, 2), NULL, 10);
        if (*name && total > 0) {
            char *object = xstrfmt("index on %s", name);
            event_progress(object, done, total, "blocks");
            free(object);
        } else if (!*name && !p->o->compress) {
            bytes = done;
        }
    }
    PQclear(res);
    return bytes;
}

void restore_progress_tick(void *ctx)
{
    struct restore_progress *p = ctx;

    read_log(p);
    if (p->ticks++ % 4 != 0)
        return;
    int64_t running = p->o->watch && !pg_is_bad(p->o->watch) ? ask_server(p) : 0;
    int64_t bytes = p->bytes + running < p->total_bytes ? p->bytes + running : p->total_bytes;
    size_t finished = p->finished < p->entries ? p->finished : p->entries;
    event_emit(&(struct event){.kind = EVENT_PROGRESS,
                               .object = "restore",
                               .text = p->current,
                               .done = (int64_t) finished,
                               .total = (int64_t) p->entries,
                               .unit = "objects"});
    event_progress("restore data", bytes, p->total_bytes, "bytes");
}

void restore_progress_release(struct restore_progress *p)
{
    strbuf_release(&p->partial);
}

static void read_tail(const char *path, int64_t from, struct strbuf *out)
{
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct stat sb;
    if (fd < 0)
        return;
    if (fstat(fd, &sb) == 0) {
        int64_t at = sb.st_size - from > LOG_TAIL ? sb.st_size - LOG_TAIL : from;
        char *buffer = xmalloc((size_t) LOG_TAIL);
        ssize_t n = pread(fd, buffer, (size_t) LOG_TAIL, at);
        if (n > 0)
            strbuf_add(out, buffer, (size_t) n);
        free(buffer);
    }
    close(fd);
}

static const char *rest_of_line(const char *text, char *out, size_t size)
{
    size_t len = strcspn(text, "\n");
    snprintf(out, size, "%.*s", (int) (len < size ? len : size - 1), text);
    return out;
}

/* "3206; 2606 16398 FK CONSTRAINT c c_p_fkey owner" without its numbers */
static const char *entry_name(const char *text)
{
    return text + strspn(text, "0123456789; ");
}

static void restore_hint(const struct archive_options *o, struct error *err)
{
    static const struct {
        const char *said;
        const char *hint;
    } known[] = {
        {"violates", "Blue itself holds rows that break this constraint: find them there, mend "
                     "them, then abort and "
                     "begin again."},
        {"is violated by some row",
         "Blue itself holds rows that break this constraint: find them there, mend them, "
         "then abort and begin again."},
        {"could not create unique index",
         "Blue itself holds duplicates that its own index missed (a changed "
         "collation does that): REINDEX it on blue, mend the rows, then abort and "
         "begin again."},
        {"conflicting key value",
         "Blue itself holds rows that break this constraint: find them there, mend them, "
         "then abort and begin again."},
        {"role \"",
         "Make the role on green (pg_dumpall --globals-only on blue lists them), then resume."},
        {"is not available", "Install the extension's package on green's host, then resume."},
        {"could not open extension control file",
         "Install the extension's package on green's host, then resume."},
        {"permission denied",
         "Give the user of green's conninfo the right, or use a superuser, then resume."},
        {"already exists", "green is not empty: abort, which empties it, then begin again."},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strstr(err->message, known[i].said)) {
            error_hint(err, "%s", known[i].hint);
            return;
        }
    }
    error_hint(err, "The whole output of pg_restore is in %s.",
               o->log_path ? o->log_path : "the log");
}

bool restore_explain(const struct archive_options *o, int64_t log_from, struct error *err)
{
    struct strbuf log = {0};
    char reason[700] = "", entry[260] = "", detail[600] = "", command[800] = "";

    if (err->code != ERR_CHILD)
        return false;
    read_tail(o->log_path, log_from, &log);
    if (log.len == 0)
        strbuf_addstr(&log, err->detail);
    const char *error = strstr(strbuf_cstr(&log), "pg_restore: error: ");
    const char *server = error ? strstr(error, "ERROR:  ") : NULL;
    /* Workers write their lines in pieces, among which others' lines may come. */
    if (!server)
        error = server = strstr(strbuf_cstr(&log), "ERROR:  ");
    if (server) {
        const char *from = NULL;
        for (const char *p = strbuf_cstr(&log); (p = strstr(p, "from TOC entry ")) && p < error;
             p++)
            from = p;
        if (from)
            rest_of_line(entry_name(from + strlen("from TOC entry ")), entry, sizeof entry);
        rest_of_line(server + strlen("ERROR:  "), reason, sizeof reason);
        const char *more = strstr(server, "\nDETAIL:  ");
        const char *context = strstr(server, "\nCONTEXT:  ");
        const char *was = strstr(server, "Command was: ");
        const char *end = strstr(server, "\npg_restore: ");
        if (more && (!end || more < end))
            rest_of_line(more + strlen("\nDETAIL:  "), detail, sizeof detail);
        else if (context && (!end || context < end))
            rest_of_line(context + strlen("\nCONTEXT:  "), detail, sizeof detail);
        if (was && (!end || was < end))
            snprintf(command, sizeof command, "%.*s", (int) strcspn(was, ";"), was);
        error_set(err, ERR_CHILD, "pg_restore failed%s%s: %s", entry[0] ? " at " : "", entry,
                  reason);
        error_detail(err, "%s%s%s", detail, detail[0] && command[0] ? "\n" : "", command);
    }
    restore_hint(o, err);
    strbuf_release(&log);
    return false;
}
