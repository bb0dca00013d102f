/* statement.c - sending one statement, its line in the log, and an error that says where to look.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXCERPT 200

/* Takes the object. A log that can't be written fails nothing: what ran is in the history. */
static void log_line(struct session *s, json_t *line)
{
    char now[CLOCK_ISO_SIZE];
    struct error ignored = {0};

    clock_iso(now, clock_wall_us());
    json_object_set_new(line, "at", json_string(now));
    json_object_set_new(line, "file", s->file ? json_string(s->file) : json_null());
    json_object_set_new(line, "line", json_integer(s->line));
    char *text = json_dumps(line, JSON_COMPACT);
    if (text && s->log_fd >= 0) {
        char *whole = xstrfmt("%s\n", text);
        if (!file_write_all(s->log_fd, whole, strlen(whole), s->o->log_path, &ignored)) {
            event_warn("migration log: %s", ignored.message);
            statement_log_close(s);
        }
        free(whole);
    }
    free(text);
    json_decref(line);
}

/* json_string() gives NULL for text that isn't UTF-8. */
static void set_text(json_t *line, const char *key, const char *text)
{
    json_t *value = json_string(text ? text : "");
    json_object_set_new(line, key, value ? value : json_string("?"));
}

static void on_notice(void *arg, const PGresult *res)
{
    struct session *s = arg;
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    json_t *line = json_object();

    set_text(line, "severity", severity);
    set_text(line, "notice", message);
    log_line(s, line);
    if (severity && strcmp(severity, "WARNING") == 0 && s->file)
        event_warn("%s:%d: %s", s->file, s->line, message ? message : "");
}

bool statement_log_open(struct session *s, struct error *err)
{
    s->log_fd = -1;
    PQsetNoticeReceiver(pg_raw(s->pg), on_notice, s);
    if (!s->o->log_path)
        return true;
    s->log_fd = open(s->o->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return s->log_fd >= 0 || error_set_errno(err, errno, "could not open \"%s\"", s->o->log_path);
}

void statement_log_close(struct session *s)
{
    if (s->log_fd >= 0)
        close(s->log_fd);
    s->log_fd = -1;
}

static void log_statement(struct session *s, const struct answer *answer, int64_t elapsed_us,
                          const struct error *why)
{
    json_t *line = json_object();

    json_object_set_new(line, "ms", json_integer(elapsed_us / 1000));
    if (why) {
        set_text(line, "sqlstate", why->sqlstate);
        set_text(line, "error", why->message);
    } else {
        json_object_set_new(line, "rows", json_integer(answer->rows));
        set_text(line, "tag", answer->tag);
    }
    log_line(s, line);
}

static void advise(struct error *err, const struct migration *m, bool in_transaction)
{
    const char *state = err->sqlstate;

    if (strcmp(state, "25001") == 0 || strcmp(state, "2D000") == 0 || strcmp(state, "55P04") == 0)
        error_hint(
            err,
            "Put \"-- pgcutover:no-transaction\" into the first line of %s (each statement is then "
            "committed for itself), or move the statement into a file of its own.",
            m->file);
    else if (strcmp(state, "55P03") == 0)
        error_hint(
            err,
            "Something else holds a lock on green: look into pg_stat_activity there; [migrations] "
            "lock_timeout says how long to wait.");
    else if (err->hint[0])
        return;
    else if (strncmp(state, "23", 2) == 0 || strncmp(state, "22", 2) == 0)
        error_hint(err,
                   "Rows that the clone has from blue don't fit: change the migration so that it "
                   "mends them, "
                   "then resume; or mend them on blue, abort, and begin again with a new clone.");
    else if (in_transaction)
        error_hint(err, "The file was rolled back as a whole: mend it, then resume.");
    else
        error_hint(
            err,
            "What stands before this statement is done and kept: mend the statement, then resume.");
}

static void explain(struct session *s, const struct migration *m, const struct script *script,
                    const struct statement *st, int within, struct error *err)
{
    if (err->code != ERR_SQL) {
        error_push(err, "%s:%d", m->file, st->line);
        return;
    }
    struct error server = *err;
    struct strbuf excerpt = {0};
    bool in_transaction = PQtransactionStatus(pg_raw(s->pg)) == PQTRANS_INERROR;

    script_excerpt(script, st, EXCERPT, &excerpt);
    error_set(err, ERR_MIGRATION, "%s:%d: %s", m->file, st->line + (within > 1 ? within - 1 : 0),
              server.message);
    memcpy(err->sqlstate, server.sqlstate, sizeof err->sqlstate);
    memcpy(err->hint, server.hint, sizeof err->hint);
    error_detail(err, "%s%sstatement (SQLSTATE %s): %s", server.detail,
                 server.detail[0] ? "\n" : "", server.sqlstate, strbuf_cstr(&excerpt));
    advise(err, m, in_transaction);
    strbuf_release(&excerpt);
}

static void announce(struct session *s, const struct migration *m, const struct script *script,
                     const struct statement *st)
{
    struct strbuf text = {0};

    strbuf_addf(&text, "%s:%d: ", m->file, st->line);
    script_excerpt(script, st, 80, &text);
    event_emit(&(struct event){.kind = EVENT_PROGRESS,
                               .object = "migrate",
                               .text = strbuf_cstr(&text),
                               .done = s->done,
                               .total = s->total,
                               .unit = "statements"});
    strbuf_release(&text);
}

bool statement_run(struct session *s, const struct migration *m, const struct script *script,
                   size_t n, struct error *err)
{
    const struct statement *st = &script->items[n];
    struct answer answer;

    s->file = m->file;
    s->line = st->line;
    announce(s, m, script, st);
    if (!FAULT("migrate.statement", err))
        return error_push(err, "%s:%d", m->file, st->line);
    char *sql = xstrndup(script->text + st->offset, st->len);
    int64_t began = clock_us();
    watch_set(s->watch, st->index ? st->index : st->table ? st->table : m->file);
    bool ok = migrate_send(s, sql, &answer, err);
    watch_set(s->watch, NULL);
    log_statement(s, &answer, clock_us() - began, ok ? NULL : err);
    if (ok)
        s->done++;
    else
        explain(s, m, script, st, answer.line, err);
    free(sql);
    return ok && FAULT("migrate.after-statement", err);
}

bool statement_commit(struct session *s, const struct migration *m, int line, struct error *err)
{
    if (pg_commit(s->pg, err))
        return true;
    if (err->code != ERR_SQL)
        return error_push(err, "%s: COMMIT", m->file);
    struct error server = *err;
    error_set(err, ERR_MIGRATION, "%s:%d: COMMIT: %s", m->file, line, server.message);
    memcpy(err->sqlstate, server.sqlstate, sizeof err->sqlstate);
    memcpy(err->hint, server.hint, sizeof err->hint);
    error_detail(err, "%s", server.detail);
    advise(err, m, true);
    return false;
}
