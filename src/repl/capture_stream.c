/*
 * The stream: CopyData messages 'w' (XLogData: start, end, clock, then a pgoutput message) and 'k'
 * (keepalive: end of WAL, clock, reply wanted).
 * https://www.postgresql.org/docs/15/protocol-replication.html
 */
#include "repl/capture_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/wire.h"
#include "repl/pgoutput.h"

#include <errno.h>
#include <poll.h>

/* After as much as this the clock is looked at. */
#define BATCH_MESSAGES 256
#define BATCH_BYTES ((size_t) 4 * 1024 * 1024)

static bool out_of_place(char type, bool inside, struct error *err)
{
    return error_set(err, ERR_PROTOCOL, "pgoutput message 0x%02x came %s a transaction",
                     (unsigned) (unsigned char) type, inside ? "inside" : "outside");
}

/* "The LSN of the final LSN of the transaction": the commit record's, known before the first
 * change. */
static bool begin(struct capture *c, const struct pgo_message *m, struct error *err)
{
    if (c->in_transaction)
        return out_of_place('B', true, err);
    c->in_transaction = true;
    c->commit_lsn = m->lsn;
    c->passed_over = m->lsn <= spool_last_commit(c->spool);
    return c->passed_over || spool_begin(c->spool, m->lsn, err);
}

static bool commit(struct capture *c, const struct pgo_message *m, struct error *err)
{
    char began[LSN_SIZE];
    char ended[LSN_SIZE];

    if (m->lsn != c->commit_lsn || m->end_lsn <= m->lsn)
        return error_set(err, ERR_PROTOCOL, "transaction of commit LSN %s ended with %s",
                         lsn_str(began, c->commit_lsn), lsn_str(ended, m->lsn));
    c->in_transaction = false;
    if (c->passed_over)
        return true;
    if (!spool_commit(c->spool, m->lsn, m->end_lsn, err))
        return false;
    c->stats.transactions++;
    if (!c->unsynced_transactions) {
        c->unsynced_transactions = true;
        c->unsynced_since = c->now;
    }
    return true;
}

/* One pgoutput message. Only BEGIN and COMMIT are read here: they say what a transaction is. */
static bool spool_message(struct capture *c, lsn_t lsn, const unsigned char *data, size_t len,
                          struct error *err)
{
    struct pgo_message m = {0};
    char type = len > 0 ? (char) data[0] : '\0';
    bool bounds = type == PGO_BEGIN || type == PGO_COMMIT;

    if (bounds) {
        arena_reset(c->arena);
        if (!pgo_decode(&m, data, len, false, c->arena, err))
            return false;
    }
    if (type == PGO_BEGIN && !begin(c, &m, err))
        return false;
    if (!c->in_transaction)
        return out_of_place(type, false, err);
    if (!c->passed_over && !spool_append(c->spool, lsn, data, len, err))
        return false;
    if (type == PGO_COMMIT && !commit(c, &m, err))
        return false;
    if (m.end_lsn > c->stats.received)
        c->stats.received = m.end_lsn;
    return true;
}

static bool take_data(struct capture *c, struct wire *w, struct error *err)
{
    lsn_t start = wire_u64(w);
    lsn_t end = wire_u64(w);
    wire_u64(w); /* the server's clock */
    size_t len = wire_left(w);

    if (w->failed)
        return error_set(err, ERR_PROTOCOL, "XLogData message is too short");
    if (end > c->stats.server_end)
        c->stats.server_end = end;
    c->last_data = c->now;
    c->stats.messages++;
    c->stats.bytes += (int64_t) len;
    return spool_message(c, start, w->p, len, err) && FAULT("capture.received", err);
}

/*
 * For a logical walsender the keepalive's "current end of WAL" is the end of what it has decoded
 * and sent: transactions that commit below it are all here. Inside a transaction it is not looked
 * at (TRAPS 5).
 */
static bool take_keepalive(struct capture *c, struct wire *w, struct error *err)
{
    lsn_t end = wire_u64(w);
    wire_u64(w);
    bool reply = wire_u8(w) != 0;

    if (w->failed)
        return error_set(err, ERR_PROTOCOL, "keepalive message is too short");
    if (end > c->stats.server_end)
        c->stats.server_end = end;
    if (reply)
        c->reply_wanted = true;
    if (c->in_transaction)
        return true;
    if (end > c->stats.received)
        c->stats.received = end;
    if (end > spool_end(c->spool) && end > c->position)
        c->position = end;
    return true;
}

static bool take(struct capture *c, const char *data, size_t len, struct error *err)
{
    struct wire w = wire_over(data, len);
    uint8_t type = wire_u8(&w);

    switch (type) {
    case 'w':
        return take_data(c, &w, err);
    case 'k':
        return take_keepalive(c, &w, err);
    default:
        return error_set(err, ERR_PROTOCOL, "replication message of unknown type 0x%02x", type);
    }
}

/* The server ended the copy, with an error or without one (it was shut down). */
static enum capture_outcome ended(struct capture *c, struct error *err)
{
    PGresult *res = PQgetResult(c->conn);
    enum capture_outcome rc = capture_refused(c, res, "the stream of changes ended", err);
    PQclear(res);
    return rc;
}

/*
 * *more: the batch is full and more may be in the buffer. Data can stay behind in the TLS layer,
 * where poll(2) doesn't see it: a TLS record has 16 kB at most and libpq reads at least 8 kB at a
 * time, so a few reads empty it.
 */
static enum capture_outcome receive(struct capture *c, bool *more, struct error *err)
{
    int tries = PQsslInUse(c->conn) ? 3 : 1;
    size_t bytes = 0;
    char *data = NULL;

    *more = true;
    c->now = clock_us();
    for (int n = 0; n < BATCH_MESSAGES && bytes < BATCH_BYTES;) {
        int len = PQgetCopyData(c->conn, &data, 1);
        if (len < 0)
            return ended(c, err);
        if (len == 0 && tries-- == 0) {
            *more = false;
            break;
        }
        if (len == 0) {
            if (!PQconsumeInput(c->conn))
                return capture_refused(c, NULL, "lost the connection", err);
            continue;
        }
        bool ok = take(c, data, (size_t) len, err);
        PQfreemem(data);
        if (!ok)
            return CAPTURE_FATAL;
        bytes += (size_t) len;
        n++;
    }
    if (bytes > 0)
        c->stats.last_contact_us = c->now;
    return CAPTURE_GO;
}

static enum capture_outcome wait_for_more(struct capture *c, struct error *err)
{
    struct pollfd fds[2] = {{.fd = PQsocket(c->conn), .events = POLLIN},
                            {.fd = c->wake, .events = POLLIN}};

    if (c->more_to_send)
        fds[0].events |= POLLOUT;
    if (poll(fds, 2, clock_poll_ms(capture_next_due(c))) < 0 && errno != EINTR) {
        error_set_errno(err, errno, "poll failed");
        return CAPTURE_FATAL;
    }
    return CAPTURE_GO;
}

static void forget_last_stream(struct capture *c)
{
    c->in_transaction = c->passed_over = c->reply_wanted = c->more_to_send = false;
    c->position = 0;
    c->now = c->last_data = c->last_status = c->stats.last_contact_us = clock_us();
}

enum capture_outcome capture_stream(struct capture *c, struct error *err)
{
    forget_last_stream(c);
    enum capture_outcome rc = capture_status(c, err);
    while (rc == CAPTURE_GO) {
        bool more = false;
        if (atomic_load(&c->stopping))
            return CAPTURE_END;
        rc = receive(c, &more, err);
        if (rc == CAPTURE_GO)
            rc = capture_tick(c, err);
        capture_show_stats(c);
        if (rc == CAPTURE_GO && !more)
            rc = wait_for_more(c, err);
    }
    return rc;
}
