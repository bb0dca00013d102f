/* query.c - sending statements and taking in their results, always with a way out. */
#include "private.h"

#include "base/alloc.h"
#include "sys/stop.h"
#include "sys/thread.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LARGE_MESSAGE 65536
#define STOP_SLICE_MS 100
#define CANCEL_MS 5000
#define MAX_STATEMENTS 4000

struct pg_statement {
    char *sql;
    Oid *types;
    int ntypes;
    uint64_t hash; /* of sql: a shortcut only, the whole text decides */
    char name[32];
};

static void trim(char *text)
{
    size_t len = strlen(text);

    while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
        text[--len] = '\0';
}

/* The server ends the session with such a message; the end of the connection is only seen after it.
 */
static bool is_fatal(const PGresult *res)
{
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

    return severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

static void result_error(const struct pg *pg, const PGresult *res, struct error *err)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
    const char *context = PQresultErrorField(res, PG_DIAG_CONTEXT);
    bool lost = PQstatus(pg->conn) == CONNECTION_BAD || is_fatal(res);

    if (!primary)
        primary = PQresultErrorMessage(res);
    if (!primary[0])
        primary = PQerrorMessage(pg->conn);
    if (lost)
        error_set(err, ERR_CONNECT, "lost the connection to %s: %s", pg->where, primary);
    else
        error_set(err, ERR_SQL, "%s", primary[0] ? primary : "the server gave no reason");
    trim(err->message);
    if (state)
        copy_text(err->sqlstate, sizeof err->sqlstate, state);
    if (detail || context)
        error_detail(err, "%s%s%s", detail ? detail : "", detail && context ? "\n" : "",
                     context ? context : "");
    if (hint)
        error_hint(err, "%s", hint);
    else if (lost)
        error_hint(err, "Check the server and the network, then resume.");
}

/* What libpq itself refused. */
static bool send_failed(struct pg *pg, struct error *err)
{
    bool lost = PQstatus(pg->conn) == CONNECTION_BAD;

    if (lost)
        error_set(err, ERR_CONNECT, "lost the connection to %s: %s", pg->where,
                  PQerrorMessage(pg->conn));
    else
        error_set(err, ERR_PROTOCOL, "cannot send a statement to %s: %s", pg->where,
                  PQerrorMessage(pg->conn));
    trim(err->message);
    return lost ? error_hint(err, "Check the server and the network, then resume.") : false;
}

static bool out_of_time(const struct pg *pg)
{
    return clock_passed(pg->deadline) || (pg->interrupt && atomic_load(pg->interrupt));
}

static bool may_start(struct pg *pg, struct error *err)
{
    if (pg_is_bad(pg)) {
        error_set(err, ERR_CONNECT, "the connection to %s is lost", pg->where);
        return error_hint(err, "Check the server and the network, then resume.");
    }
    if (pg->stoppable && !stop_check(err))
        return false;
    if (out_of_time(pg))
        return error_set(err, ERR_TIMEOUT, "no time left for a statement on %s", pg->where);
    PQsetnonblocking(pg->conn, 1);
    return true;
}

bool pg_start(struct pg *pg, const char *sql, struct error *err)
{
    if (!may_start(pg, err))
        return false;
    return PQsendQuery(pg->conn, sql) == 1 || send_failed(pg, err);
}

static bool is_copy(ExecStatusType status)
{
    return status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH;
}

/* True when nothing more is to come: a COPY is left to the caller, who drives it on the raw
 * connection. */
static bool take(struct pg *pg, struct pg_call *call, PGresult *res)
{
    ExecStatusType status = PQresultStatus(res);

    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY ||
        is_copy(status)) {
        PQclear(call->result);
        call->result = res;
        call->completed++;
        return is_copy(status);
    }
    if (!call->failed)
        result_error(pg, res, &call->error);
    call->failed = true;
    pg->bad = pg->bad || is_fatal(res);
    PQclear(res);
    return false;
}

static bool drain_broken(struct pg *pg, struct pg_call *call)
{
    PGresult *res;

    /* the socket is closed: these return at once */
    for (int i = 0; i < 100 && (res = PQgetResult(pg->conn)) != NULL; i++)
        take(pg, call, res);
    if (!call->failed) {
        call->failed = true;
        send_failed(pg, &call->error);
    }
    pg->bad = true;
    return true;
}

bool pg_pump(struct pg *pg, struct pg_call *call, int64_t until_us)
{
    for (;;) {
        int flushed = PQflush(pg->conn);
        struct pollfd fd = {.fd = PQsocket(pg->conn), .events = POLLIN};

        if (!PQconsumeInput(pg->conn) || (flushed < 0 && PQstatus(pg->conn) == CONNECTION_BAD))
            return drain_broken(pg, call);
        while (!PQisBusy(pg->conn)) {
            PGresult *res = PQgetResult(pg->conn);
            if (!res || take(pg, call, res)) {
                PQsetnonblocking(pg->conn, 0);
                return true;
            }
        }
        if (clock_passed(until_us))
            return false;
        if (flushed == 1)
            fd.events = POLLIN | POLLOUT;
        (void) poll(&fd, 1, clock_poll_ms(until_us));
    }
}

static void *cancel_thread(void *arg)
{
    PGcancel *cancel = arg;
    char text[256];

    (void) PQcancel(cancel, text, (int) sizeof text);
    PQfreeCancel(cancel);
    return NULL;
}

/*
 * PQcancel opens a connection of its own and may block on it, so it runs beside us. It returns when
 * the server has closed that connection, after the signal was sent: only then can the next
 * statement be safe from it.
 */
bool pg_cancel(struct pg *pg, struct pg_call *call)
{
    PGcancel *cancel = PQgetCancel(pg->conn);
    int64_t until = clock_in_ms(CANCEL_MS);
    struct error ignored = {0};
    struct timespec limit;
    pthread_t thread;
    bool over;

    if (!cancel || !thread_start(&thread, "cancel", cancel_thread, cancel, &ignored)) {
        PQfreeCancel(cancel);
        pg->bad = true;
        return false;
    }
    over = pg_pump(pg, call, until);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 2;
    if (pthread_timedjoin_np(thread, NULL, &limit) != 0) {
        pthread_detach(thread);
        over = false;
    }
    if (!over)
        pg->bad = true;
    return over;
}

bool pg_collect(struct pg *pg, struct pg_call *call, struct error *err)
{
    bool stopped = false;

    for (;;) {
        int64_t slice = clock_in_ms(STOP_SLICE_MS);
        if (pg_pump(pg, call, slice < pg->deadline ? slice : pg->deadline))
            break;
        stopped = pg->stoppable && stop_requested();
        if (!stopped && !out_of_time(pg))
            continue;
        /* A statement that was faster than the request to cancel it has succeeded. */
        if (pg_cancel(pg, call) && (!call->failed || strcmp(call->error.sqlstate, "57014") != 0))
            break;
        if (stopped && !stop_check(err))
            return false;
        error_set(err, ERR_TIMEOUT, "a statement on %s did not end in time", pg->where);
        return pg->bad ? error_detail(err, "the server did not answer the request to cancel either")
                       : false;
    }
    if (call->failed)
        *err = call->error;
    return !call->failed;
}

void pg_call_release(struct pg_call *call)
{
    PQclear(call->result);
    *call = (struct pg_call){0};
}

static bool finish(struct pg *pg, PGresult **out, int expect_rows, struct error *err)
{
    struct pg_call call = {0};
    bool ok = pg_collect(pg, &call, err);

    if (ok && expect_rows != PG_ANY && PQntuples(call.result) != expect_rows) {
        error_set(err, ERR_PROTOCOL, "a query on %s gave %d rows where %d were expected", pg->where,
                  PQntuples(call.result), expect_rows);
        ok = false;
    }
    if (ok && out) {
        *out = call.result;
        call.result = NULL;
    }
    pg_call_release(&call);
    return ok;
}

bool pg_query(struct pg *pg, PGresult **out, int expect_rows, const char *sql, int nparams,
              const char *const *params, struct error *err)
{
    if (out)
        *out = NULL;
    if (nparams == 0) {
        if (!pg_start(pg, sql, err))
            return false;
    } else if (!may_start(pg, err) ||
               (!PQsendQueryParams(pg->conn, sql, nparams, NULL, params, NULL, NULL, 0) &&
                !send_failed(pg, err))) {
        return false;
    }
    return finish(pg, out, expect_rows, err);
}

bool pg_exec(struct pg *pg, const char *sql, struct error *err)
{
    return pg_start(pg, sql, err) && finish(pg, NULL, PG_ANY, err);
}

bool pg_execf(struct pg *pg, struct error *err, const char *fmt, ...)
{
    struct strbuf sql = {0};
    va_list ap;
    bool ok;

    va_start(ap, fmt);
    strbuf_addv(&sql, fmt, ap);
    va_end(ap);
    ok = pg_exec(pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    return ok;
}

bool pg_value(struct pg *pg, char **out, const char *sql, int nparams, const char *const *params,
              struct error *err)
{
    PGresult *res = NULL;

    *out = NULL;
    if (!pg_query(pg, &res, 1, sql, nparams, params, err))
        return false;
    if (PQnfields(res) < 1) {
        PQclear(res);
        return error_set(err, ERR_PROTOCOL, "a query on %s gave no column", pg->where);
    }
    *out = xstrdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return true;
}

static uint64_t hash_text(const char *s)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */

    for (; *s; s++)
        h = (h ^ (unsigned char) *s) * 1099511628211u;
    return h;
}

static bool same_statement(const struct pg_statement *s, uint64_t hash, const char *sql,
                           int nparams, const struct pg_param *params)
{
    if (s->hash != hash || s->ntypes != nparams || strcmp(s->sql, sql) != 0)
        return false;
    for (int i = 0; i < nparams; i++)
        if (s->types[i] != params[i].type)
            return false;
    return true;
}

void pg_forget_statements(struct pg *pg)
{
    for (size_t i = 0; i < pg->nstatements; i++) {
        free(pg->statements[i].sql);
        free(pg->statements[i].types);
    }
    free(pg->statements);
    pg->statements = NULL;
    pg->nstatements = pg->capstatements = 0;
}

static bool prepare(struct pg *pg, const char **name, const char *sql, int nparams,
                    const struct pg_param *params, struct error *err)
{
    struct pg_statement *s;
    uint64_t hash = hash_text(sql);
    char fresh[32];
    Oid *types;

    for (size_t i = 0; i < pg->nstatements; i++) {
        if (same_statement(&pg->statements[i], hash, sql, nparams, params)) {
            *name = pg->statements[i].name;
            return true;
        }
    }
    if (pg->nstatements >= MAX_STATEMENTS) {
        if (!pg_exec(pg, "DEALLOCATE ALL", err))
            return false;
        pg_forget_statements(pg);
    }
    types = xcalloc((size_t) nparams + 1, sizeof *types);
    for (int i = 0; i < nparams; i++)
        types[i] = params[i].type;
    snprintf(fresh, sizeof fresh, "pgcutover_%llu", (unsigned long long) ++pg->next_statement);
    if (!may_start(pg, err) ||
        (!PQsendPrepare(pg->conn, fresh, sql, nparams, types) && !send_failed(pg, err)) ||
        !finish(pg, NULL, PG_ANY, err)) {
        free(types);
        return false;
    }
    s = VEC_ADD(pg->statements, pg->nstatements, pg->capstatements);
    s->sql = xstrdup(sql);
    s->hash = hash;
    s->types = types;
    s->ntypes = nparams;
    memcpy(s->name, fresh, sizeof s->name);
    *name = s->name;
    return true;
}

/* Without blocking libpq moves all that is still unsent after each packet (TRAPS 11): the time for
 * a message would grow with the square of its size. Where no deadline presses, a large one is sent
 * in one go; a network that stalls ends it by tcp_user_timeout. */
static bool send_prepared(struct pg *pg, const char *name, int nparams, const char *const *values,
                          const int *lens, const int *formats, struct error *err)
{
    int64_t bytes = 0;
    bool sent;

    for (int i = 0; i < nparams; i++)
        bytes += lens[i];
    if (bytes > LARGE_MESSAGE && pg->deadline == CLOCK_NONE)
        PQsetnonblocking(pg->conn, 0);
    sent = PQsendQueryPrepared(pg->conn, name, nparams, values, lens, formats, 0) == 1;
    PQsetnonblocking(pg->conn, 1);
    return sent || send_failed(pg, err);
}

bool pg_prepared(struct pg *pg, PGresult **out, const char *sql, int nparams,
                 const struct pg_param *params, struct error *err)
{
    const char **values = xcalloc((size_t) nparams + 1, sizeof *values);
    int *lens = xcalloc((size_t) nparams + 1, sizeof *lens);
    int *formats = xcalloc((size_t) nparams + 1, sizeof *formats);
    const char *name = NULL;
    bool ok;

    if (out)
        *out = NULL;
    for (int i = 0; i < nparams; i++) {
        values[i] = params[i].data;
        lens[i] = params[i].len;
        formats[i] = params[i].binary;
    }
    ok = prepare(pg, &name, sql, nparams, params, err) && may_start(pg, err) &&
         send_prepared(pg, name, nparams, values, lens, formats, err) &&
         finish(pg, out, PG_ANY, err);
    free(values);
    free(lens);
    free(formats);
    return ok;
}

bool pg_in_transaction(const struct pg *pg)
{
    PGTransactionStatusType status = PQtransactionStatus(pg->conn);

    return status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
}

bool pg_begin(struct pg *pg, const char *how, struct error *err)
{
    return pg_execf(pg, err, "BEGIN %s", how);
}

bool pg_exec_undisturbed(struct pg *pg, const char *sql, PGresult **out, struct error *err)
{
    int64_t deadline = pg->deadline;
    bool stoppable = pg->stoppable, ok;

    pg->deadline = CLOCK_NONE;
    pg->stoppable = false;
    ok = pg_query(pg, out, PG_ANY, sql, 0, NULL, err);
    pg->deadline = deadline;
    pg->stoppable = stoppable;
    return ok;
}

/* "COMMIT" of a transaction that failed is answered with ROLLBACK, and is no error to the server.
 */
bool pg_commit(struct pg *pg, struct error *err)
{
    PGresult *res = NULL;
    bool ok = pg_query(pg, &res, PG_ANY, "COMMIT", 0, NULL, err);

    if (ok && strcmp(PQcmdStatus(res), "COMMIT") != 0) {
        error_set(err, ERR_SQL, "the transaction on %s had failed and was rolled back", pg->where);
        copy_text(err->sqlstate, sizeof err->sqlstate, "25P02");
        ok = false;
    }
    PQclear(res);
    return ok;
}

void pg_rollback(struct pg *pg)
{
    struct error ignored = {0};
    int64_t deadline;
    bool stoppable;

    if (!pg || pg_is_bad(pg))
        return;
    deadline = pg->deadline;
    stoppable = pg->stoppable;
    pg->deadline = clock_in_ms(CANCEL_MS);
    pg->stoppable = false;
    if (PQtransactionStatus(pg->conn) == PQTRANS_ACTIVE) {
        struct pg_call call = {0};
        (void) pg_cancel(pg, &call);
        pg_call_release(&call);
    }
    if (pg_in_transaction(pg) && !pg_exec(pg, "ROLLBACK", &ignored))
        pg->bad = true;
    pg->deadline = deadline;
    pg->stoppable = stoppable;
}
