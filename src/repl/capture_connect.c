/*
 * Making the stream, and telling faults that pass (refused, starting up, cut, slot still held by
 * our own dead session) from those that don't: the slot, its WAL, the database or the server's
 * history is not there any more.
 */
#include "repl/capture_internal.h"

#include "base/clock.h"
#include "pg/slot.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MS 60000

lsn_t capture_floor(const struct capture *c)
{
    lsn_t end = spool_end(c->spool);
    return end > c->start ? end : c->start;
}

static enum capture_outcome is_void(struct error *err)
{
    error_hint(
        err,
        "What was copied from there can't be completed any more: abort the run and begin again. "
        "After the switch the way back has become lossy.");
    return CAPTURE_FATAL;
}

/* SQLSTATE classes: 08 connection, 53 resources, 57 operator intervention, 58 system; 55006 object
 * in use. */
static bool passes(const char *sqlstate)
{
    static const char *const classes[] = {"08", "53", "57", "58"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(sqlstate, classes[i], 2) == 0)
            return true;
    return sqlstate[0] == '\0' || strcmp(sqlstate, "55006") == 0;
}

/* Once it worked, whatever is refused may be mended (a password, a privilege, a package): it is
 * tried for ever. */
static enum capture_outcome classify(const struct capture *c, struct error *err)
{
    if (strcmp(err->sqlstate, "3D000") == 0) {
        error_set(err, ERR_VOID, "database \"%s\" no longer exists at %s", c->identity.database,
                  c->where);
        return is_void(err);
    }
    if (err->code == ERR_STOPPED || passes(err->sqlstate) || c->was_connected)
        return CAPTURE_RETRY;
    return CAPTURE_FATAL;
}

static void copy_field(char *to, size_t size, const PGresult *res, int field)
{
    const char *text = PQresultErrorField(res, field);
    if (text)
        snprintf(to, size, "%s", text);
}

enum capture_outcome capture_refused(struct capture *c, const PGresult *res, const char *doing,
                                     struct error *err)
{
    char primary[512] = "";

    copy_field(primary, sizeof primary, res, PG_DIAG_MESSAGE_PRIMARY);
    if (!primary[0]) {
        snprintf(primary, sizeof primary, "%s", PQerrorMessage(c->conn));
        primary[strcspn(primary, "\n")] = '\0';
    }
    error_set(err, ERR_CONNECT, "%s: %s", doing,
              primary[0] ? primary : "the connection was closed");
    copy_field(err->sqlstate, sizeof err->sqlstate, res, PG_DIAG_SQLSTATE);
    copy_field(err->detail, sizeof err->detail, res, PG_DIAG_MESSAGE_DETAIL);
    copy_field(err->hint, sizeof err->hint, res, PG_DIAG_MESSAGE_HINT);
    if (err->sqlstate[0])
        err->code = ERR_SQL;
    /* undefined_object: the slot went after we looked at it, or the publication isn't there at the
     * LSN that is decoded, where making it again doesn't help */
    if (strcmp(err->sqlstate, "42704") == 0) {
        error_set(err, ERR_VOID, "changes of %s can't be decoded any more: %s", c->where, primary);
        return is_void(err);
    }
    return classify(c, err);
}

/* Waits for a result of what was sent; a stop ends the waiting. */
static enum capture_outcome answer(struct capture *c, PGresult **out, struct error *err)
{
    int64_t deadline = clock_in_ms(ANSWER_MS);

    while (PQisBusy(c->conn)) {
        struct pollfd fds[2] = {{.fd = PQsocket(c->conn), .events = POLLIN},
                                {.fd = c->wake, .events = POLLIN}};
        if (atomic_load(&c->stopping))
            return CAPTURE_END;
        if (clock_passed(deadline)) {
            error_set(err, ERR_CONNECT, "%s gave no answer for %d s", c->where, ANSWER_MS / 1000);
            return CAPTURE_RETRY;
        }
        if (poll(fds, 2, clock_poll_ms(deadline)) < 0 && errno != EINTR) {
            error_set_errno(err, errno, "poll failed");
            return CAPTURE_FATAL;
        }
        if (fds[0].revents && !PQconsumeInput(c->conn))
            return capture_refused(c, NULL, "lost the connection", err);
    }
    *out = PQgetResult(c->conn);
    return CAPTURE_GO;
}

static enum capture_outcome command(struct capture *c, const char *text, ExecStatusType expected,
                                    PGresult **out, struct error *err)
{
    if (!PQsendQuery(c->conn, text))
        return capture_refused(c, NULL, "lost the connection", err);
    enum capture_outcome rc = answer(c, out, err);
    if (rc == CAPTURE_GO && PQresultStatus(*out) != expected) {
        rc = capture_refused(c, *out, "the server refused to stream changes", err);
        PQclear(*out);
        *out = NULL;
    }
    return rc;
}

static enum capture_outcome check_identity(const struct capture *c, const struct pg_identity *now,
                                           struct error *err)
{
    const struct pg_identity *first = &c->identity;

    if (now->system_id != first->system_id)
        error_set(err, ERR_VOID,
                  "another server answers at %s: system identifier %llu, it was %llu", c->where,
                  (unsigned long long) now->system_id, (unsigned long long) first->system_id);
    else if (now->timeline != first->timeline)
        error_set(err, ERR_VOID, "%s is on timeline %u, it was %u: a standby was promoted",
                  c->where, now->timeline, first->timeline);
    else if (now->database_oid != first->database_oid)
        error_set(err, ERR_VOID, "database \"%s\" at %s was made anew: OID %u, it was %u",
                  first->database, c->where, now->database_oid, first->database_oid);
    else
        return CAPTURE_GO;
    return is_void(err);
}

/* A standby has no slot yet may be what answers while the primary restarts: no proof of anything.
 */
static bool is_standby(struct pg *pg)
{
    const char *standby = PQparameterStatus(pg_raw(pg), "in_hot_standby");
    return standby && strcmp(standby, "on") == 0;
}

static enum capture_outcome check_slot(struct capture *c, const struct slot_info *slot,
                                       struct error *err)
{
    char told[LSN_SIZE];
    char held[LSN_SIZE];
    lsn_t floor = capture_floor(c);

    if (!slot->exists)
        error_set(err, ERR_VOID, "replication slot \"%s\" no longer exists at %s", c->slot,
                  c->where);
    else if (strcmp(slot->wal_status, "lost") == 0)
        error_set(err, ERR_VOID, "replication slot \"%s\" at %s has lost WAL that it needs",
                  c->slot, c->where);
    else if (slot->confirmed_flush > floor)
        error_set(err, ERR_VOID,
                  "slot \"%s\" was told %s, the spool ends at %s: changes between are lost",
                  c->slot, lsn_str(told, slot->confirmed_flush), lsn_str(held, floor));
    else {
        if (slot->confirmed_flush > c->stats.confirmed)
            c->stats.confirmed = slot->confirmed_flush;
        return CAPTURE_GO;
    }
    return is_void(err);
}

/* Over a connection of its own: what a replication connection can't ask. */
static enum capture_outcome check_source(struct capture *c, struct error *err)
{
    struct pg_identity now;
    struct slot_info slot;
    struct pg *pg = NULL;
    enum capture_outcome rc;

    if (!pg_open(&pg, c->conninfo, c->dbname, PG_PLAIN, c->run, c->worker, NULL, err))
        return classify(c, err);
    pg_set_stoppable(pg, false);
    pg_set_deadline(pg, clock_in_ms(ANSWER_MS));
    if (is_standby(pg)) {
        error_set(err, ERR_CONNECT, "the server at %s is a standby", c->where);
        rc = CAPTURE_RETRY;
    } else if (!pg_identify(pg, &now, err) || !slot_read(pg, c->slot, &slot, err)) {
        rc = classify(c, err);
    } else {
        rc = check_identity(c, &now, err);
        if (rc == CAPTURE_GO)
            rc = check_slot(c, &slot, err);
    }
    pg_close(pg);
    return rc;
}

/* The replication connection may have reached another server than the plain one did. */
static enum capture_outcome check_walsender(struct capture *c, struct error *err)
{
    PGresult *res = NULL;
    struct pg_identity now = c->identity;

    enum capture_outcome rc = command(c, "IDENTIFY_SYSTEM", PGRES_TUPLES_OK, &res, err);
    if (rc != CAPTURE_GO)
        return rc;
    if (PQntuples(res) == 1 && PQnfields(res) >= 2) {
        now.system_id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
        now.timeline = (uint32_t) strtoul(PQgetvalue(res, 0, 1), NULL, 10);
    }
    PQclear(res);
    while ((res = PQgetResult(c->conn)) != NULL)
        PQclear(res);
    return check_identity(c, &now, err);
}

/* The replication grammar takes names in double quotes, and strings with quotes doubled and no
 * escapes. */
static char *start_command(const struct capture *c)
{
    struct strbuf sb = {0};
    char lsn[LSN_SIZE];

    strbuf_addf(
        &sb, "START_REPLICATION SLOT \"%s\" LOGICAL %s (proto_version '1', publication_names '\"",
        c->slot, lsn_str(lsn, capture_floor(c)));
    for (const char *p = c->publication; *p; p++) {
        strbuf_addch(&sb, *p);
        if (*p == '"' || *p == '\'')
            strbuf_addch(&sb, *p);
    }
    strbuf_addstr(&sb, "\"')");
    return strbuf_take(&sb);
}

static enum capture_outcome start_streaming(struct capture *c, struct error *err)
{
    PGresult *res = NULL;
    char *text = start_command(c);

    enum capture_outcome rc = command(c, text, PGRES_COPY_BOTH, &res, err);
    PQclear(res);
    free(text);
    if (rc == CAPTURE_GO && PQsetnonblocking(c->conn, 1) != 0)
        rc = capture_refused(c, NULL, "lost the connection", err);
    return rc;
}

enum capture_outcome capture_connect(struct capture *c, struct error *err)
{
    enum capture_outcome rc = check_source(c, err);
    if (rc != CAPTURE_GO)
        return rc;
    if (!pg_open(&c->pg, c->conninfo, c->dbname, PG_WALSENDER, c->run, c->worker, c->encoding, err))
        return classify(c, err);
    c->conn = pg_raw(c->pg);
    rc = check_walsender(c, err);
    if (rc == CAPTURE_GO)
        rc = start_streaming(c, err);
    if (rc != CAPTURE_GO)
        c->conn = NULL; /* nothing to say goodbye to */
    return rc;
}
