/*
 * send.c - one statement of a user's file to the server. Apart from pg_query() because two things
 * are wanted that it doesn't give: the error's position, and results of any size that nobody keeps.
 * A stop request leaves the statement running: the caller's pg_rollback() cancels it.
 */
#include "private.h"

#include "sys/stop.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SLICE_MS 100

static const char *field(const PGresult *res, int code)
{
    const char *s = PQresultErrorField(res, code);
    return s ? s : "";
}

/* The server counts characters of the client's encoding (UTF-8), from 1. */
static int line_of_position(const char *sql, const char *position)
{
    long left = strtol(position, NULL, 10);
    int line = 1;

    if (left <= 0)
        return 0;
    for (const char *p = sql; *p; p++) {
        bool starts = ((unsigned char) *p & 0xc0) != 0x80;
        if (starts && --left <= 0)
            break;
        line += *p == '\n';
    }
    return line;
}

/* A DO block's own errors carry the line in their context, counted from its opening quote. */
static int line_in_block(const char *sql, const char *context)
{
    static const char words[] = "inline_code_block line ";
    const char *p = strncasecmp(sql, "do", 2) == 0 ? strstr(context, words) : NULL;
    int inside = p ? (int) strtol(p + strlen(words), NULL, 10) : 0;

    return inside > 0 ? script_line(sql, strcspn(sql, "$'")) + inside - 1 : 0;
}

static void trim(char *text)
{
    size_t len = strlen(text);
    while (len > 0 && strchr(" \r\n", text[len - 1]))
        text[--len] = '\0';
}

static void take_error(struct session *s, const char *sql, const PGresult *res, struct answer *out,
                       struct error *err)
{
    const PGconn *conn = pg_raw(s->pg);
    const char *primary = field(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = field(res, PG_DIAG_MESSAGE_DETAIL);
    const char *context = field(res, PG_DIAG_CONTEXT);
    bool lost = PQstatus(conn) == CONNECTION_BAD;

    error_set(err, lost ? ERR_CONNECT : ERR_SQL, "%s%s",
              lost ? "lost the connection to green: " : "",
              *primary ? primary : PQresultErrorMessage(res));
    trim(err->message);
    snprintf(err->sqlstate, sizeof err->sqlstate, "%s", field(res, PG_DIAG_SQLSTATE));
    error_detail(err, "%s%s%s", detail, *detail && *context ? "\n" : "", context);
    error_hint(
        err, "%s",
        lost ? "Check the server and the network, then resume." : field(res, PG_DIAG_MESSAGE_HINT));
    out->line = line_of_position(sql, field(res, PG_DIAG_STATEMENT_POSITION));
    if (out->line == 0)
        out->line = line_in_block(sql, context);
}

/* False when the statement failed. */
static bool take(struct session *s, const char *sql, PGresult *res, struct answer *out,
                 struct error *err)
{
    const char *count = PQcmdTuples(res);

    switch (PQresultStatus(res)) {
    case PGRES_SINGLE_TUPLE:
        out->rows++;
        return true;
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        if (*count)
            out->rows = strtoll(count, NULL, 10);
        snprintf(out->tag, sizeof out->tag, "%s", PQcmdStatus(res));
        return true;
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
        return error_set(err, ERR_PROTOCOL, "the statement wants to copy to or from the client");
    default:
        take_error(s, sql, res, out, err);
        return false;
    }
}

static bool send_failed(struct session *s, struct error *err)
{
    error_set(err, ERR_CONNECT, "lost the connection to green: %s", PQerrorMessage(pg_raw(s->pg)));
    trim(err->message);
    return error_hint(err, "Check the server and the network, then resume.");
}

bool migrate_send(struct session *s, const char *sql, struct answer *out, struct error *err)
{
    PGconn *conn = pg_raw(s->pg);
    bool ok = true;

    memset(out, 0, sizeof *out);
    if (!stop_check(err))
        return false;
    if (!PQsendQuery(conn, sql))
        return send_failed(s, err);
    PQsetSingleRowMode(conn);
    for (;;) {
        while (PQisBusy(conn)) {
            struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
            if (!stop_check(err))
                return false;
            if (poll(&fd, 1, SLICE_MS) > 0 && !PQconsumeInput(conn))
                break; /* PQgetResult tells */
        }
        PGresult *res = PQgetResult(conn);
        if (!res)
            return ok;
        bool copy = PQresultStatus(res) == PGRES_COPY_IN || PQresultStatus(res) == PGRES_COPY_OUT;
        if (ok)
            ok = take(s, sql, res, out, err);
        PQclear(res);
        if (copy)
            return false;
    }
}
