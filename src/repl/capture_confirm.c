/*
 * What the slot is told, and when the spool is made durable.
 *
 * Syncs: when no data has come for IDLE_MS, after BUSY_MS at the latest, at most every
 * SYNC_EVERY_MS; at once when the server asks for a reply, which it does when it is about to give
 * us up and when it shuts down ("the walsender waits until all WAL has been confirmed"). A position
 * alone is worth a sync only every LAZY_MS.
 */
#include "repl/capture_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/wire.h"

#include <errno.h>
#include <poll.h>

#define MS ((int64_t) 1000)
#define IDLE_MS 20
#define BUSY_MS 200
#define SYNC_EVERY_MS 100
#define LAZY_MS 1000
#define POSITION_EVERY_MS 20
#define STATUS_EVERY_MS 1000
#define CONFIRM_EVERY_MS 100
#define GOODBYE_MS 50

#define POSTGRES_EPOCH_US (INT64_C(946684800) * 1000000) /* 2000-01-01 in Unix time */

/* With nothing in the spool left to apply, what the spool knows is true of the target as well. */
static lsn_t confirmable(const struct capture *c)
{
    lsn_t lsn = spool_synced(c->spool);

    if (atomic_load(&c->how) == CONFIRM_APPLIED) {
        lsn_t applied = atomic_load(&c->applied);
        if (applied < spool_last_commit(c->spool) && applied < lsn)
            lsn = applied;
    }
    return lsn > c->stats.confirmed ? lsn : c->stats.confirmed;
}

static enum capture_outcome flush(struct capture *c, struct error *err)
{
    int rc = PQflush(c->conn);
    if (rc < 0)
        return capture_refused(c, NULL, "lost the connection", err);
    c->more_to_send = rc > 0;
    return CAPTURE_GO;
}

/* "Standby status update (F)": written, flushed, applied, clock, reply wanted */
enum capture_outcome capture_status(struct capture *c, struct error *err)
{
    struct strbuf sb = {0};
    lsn_t confirmed = confirmable(c);
    lsn_t written = c->stats.received > confirmed ? c->stats.received : confirmed;

    wire_put_u8(&sb, 'r');
    wire_put_u64(&sb, written);
    wire_put_u64(&sb, confirmed);
    wire_put_u64(&sb, confirmed);
    wire_put_u64(&sb, (uint64_t) (clock_wall_us() - POSTGRES_EPOCH_US));
    wire_put_u8(&sb, 0);
    int rc = PQputCopyData(c->conn, sb.data, (int) sb.len);
    strbuf_release(&sb);
    if (rc < 0)
        return capture_refused(c, NULL, "lost the connection", err);
    c->last_status = c->now;
    if (rc > 0) {
        c->stats.confirmed = confirmed;
        c->reply_wanted = false;
    }
    return flush(c, err);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t sync_due(const struct capture *c)
{
    if (c->unsynced_transactions)
        return later(sooner(c->last_data + IDLE_MS * MS, c->unsynced_since + BUSY_MS * MS),
                     c->last_sync + SYNC_EVERY_MS * MS);
    return c->unsynced_position ? c->position_since + LAZY_MS * MS : CLOCK_NONE;
}

static int64_t position_due(const struct capture *c)
{
    return c->position && !c->in_transaction ? c->last_position + POSITION_EVERY_MS * MS
                                             : CLOCK_NONE;
}

/* What the target has applied comes without a wake-up: it is looked at while there is something
 * outstanding. */
static int64_t look_due(const struct capture *c)
{
    bool outstanding = c->stats.confirmed < spool_synced(c->spool);
    return outstanding ? c->last_look + CONFIRM_EVERY_MS * MS : CLOCK_NONE;
}

int64_t capture_next_due(const struct capture *c)
{
    return sooner(sync_due(c), sooner(position_due(c),
                                      sooner(look_due(c), c->last_status + STATUS_EVERY_MS * MS)));
}

static bool spool_the_position(struct capture *c, struct error *err)
{
    bool news = c->position > spool_end(c->spool);

    if (!spool_position(c->spool, c->position, err))
        return false;
    c->position = 0;
    c->last_position = c->now;
    if (news && !c->unsynced_position) {
        c->unsynced_position = true;
        c->position_since = c->now;
    }
    return true;
}

static bool sync_now(struct capture *c, struct error *err)
{
    if (!FAULT("capture.before-sync", err) || !spool_sync(c->spool, err) ||
        !FAULT("capture.after-sync", err))
        return false;
    c->unsynced_transactions = c->unsynced_position = false;
    c->last_sync = clock_us();
    return true;
}

enum capture_outcome capture_tick(struct capture *c, struct error *err)
{
    c->now = clock_us();
    if (c->position && !c->in_transaction && (c->reply_wanted || c->now >= position_due(c)) &&
        !spool_the_position(c, err))
        return CAPTURE_FATAL;
    bool unsynced = c->unsynced_transactions || c->unsynced_position;
    if (((unsynced && c->reply_wanted) || c->now >= sync_due(c)) && !sync_now(c, err))
        return CAPTURE_FATAL;
    bool tell = c->reply_wanted || c->now >= c->last_status + STATUS_EVERY_MS * MS;
    if (c->now >= look_due(c)) {
        c->last_look = c->now;
        tell = tell || confirmable(c) > c->stats.confirmed;
    }
    if (tell)
        return capture_status(c, err);
    return c->more_to_send ? flush(c, err) : CAPTURE_GO;
}

/* Waits for the server's end of the copy; what still arrives is sent again when somebody next asks
 * for it. */
static void drain(struct capture *c, int64_t deadline)
{
    char *data = NULL;
    int rc;

    while (!clock_passed(deadline)) {
        struct pollfd fd = {.fd = PQsocket(c->conn), .events = POLLIN};
        if (PQflush(c->conn) > 0)
            fd.events |= POLLOUT;
        while ((rc = PQgetCopyData(c->conn, &data, 1)) > 0)
            PQfreemem(data);
        if (rc < 0)
            return;
        if (poll(&fd, 1, clock_poll_ms(deadline)) < 0 && errno != EINTR)
            return;
        if (!PQconsumeInput(c->conn))
            return;
    }
}

void capture_goodbye(struct capture *c)
{
    struct error ignored = {0};

    spool_abandon(c->spool);
    c->now = clock_us();
    if (!spool_sync(c->spool, &ignored) || capture_status(c, &ignored) != CAPTURE_GO)
        return;
    if (PQputCopyEnd(c->conn, NULL) > 0)
        drain(c, clock_in_ms(GOODBYE_MS));
}
