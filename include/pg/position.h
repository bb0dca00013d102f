/*
 * position.h - small questions around WAL positions and sessions that the steps ask.
 */
#ifndef PGCUTOVER_PG_POSITION_H
#define PGCUTOVER_PG_POSITION_H

#include "pg/conn.h"

/* pg_current_wal_insert_lsn(): everything committed before the call lies below it. */
bool pg_current_lsn(struct pg *pg, lsn_t *out, struct error *err) WARN_UNUSED;

/* pg_current_wal_flush_lsn(): everything that a slot can decode lies below it, and may be let go up
 * to there. What is inserted and not flushed yet lies above. */
bool pg_flushed_lsn(struct pg *pg, lsn_t *out, struct error *err) WARN_UNUSED;

/* pg_export_snapshot() of the transaction that is open on pg (REPEATABLE READ, READ ONLY). */
bool pg_export_snapshot(struct pg *pg, char out[64], struct error *err) WARN_UNUSED;

/* End the session "pgcutover/<run>/<worker>" if there is one (the fence's, of a process that
 * stalled or died), and wait until it is gone. */
bool pg_end_worker(struct pg *pg, const char *run, const char *worker, int64_t deadline_us,
                   struct error *err) WARN_UNUSED;

/* Changes that wait in a slot, at or past `from` and (when not 0) in transactions that commit up to
 * about `upto`, by relation and kind, our own schema left out. Does not consume them. */
struct slot_change {
    char *table; /* quoted schema.name */
    int64_t inserts, updates, deletes, truncates;
};
bool slot_count_changes(struct pg *pg, const char *slot, const char *publication, lsn_t from,
                        lsn_t upto, struct slot_change **out, size_t *n,
                        struct error *err) WARN_UNUSED;
void slot_changes_release(struct slot_change *list, size_t n);
/* Let the slot pass over everything before lsn. */
bool slot_advance(struct pg *pg, const char *slot, lsn_t lsn, struct error *err) WARN_UNUSED;

#endif
