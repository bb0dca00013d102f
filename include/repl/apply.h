/*
 * apply.h - the thread that replays a spool on the target, through the map, exactly once, in commit
 * order.
 *
 * Changes of several source transactions go into one target transaction together with the row of
 * pgcutover.progress. Set-based by exact rules (DESIGN 6): gathered by table and by the set of
 * columns they carry, one state per key within a statement, affected rows counted. TRUNCATE, key
 * changes and tables without a key are barriers. A group that fails (23505, 23P01, a count that
 * differs, anything) is rolled back and redone change by change in order, constraints deferred;
 * what fails then stops the thread with ERR_CONFLICT: table, key, commit LSN, what was found, and
 * the way on. Nothing is ever upserted or skipped.
 * Sessions: session_replication_role = replica and a replication origin "pgcutover_<run>_<database
 * OID>". Transactions of the source that carry such an origin of the same run are replay's own in
 * the other direction: they are passed over.
 */
#ifndef PGCUTOVER_REPL_APPLY_H
#define PGCUTOVER_REPL_APPLY_H

#include "map/map.h"
#include "map/touched.h"
#include "repl/spool.h"

struct apply;

struct apply_options {
    const char *conninfo;
    const char *dbname;
    const char *run;
    const char *encoding; /* the source database's encoding, in which the spool's values are */
    const struct map *map;
    struct spool *spool;
    struct touched *touched;   /* keys are added after each commit ... */
    struct touched *changed;   /* ... to this set, too, which others empty */
    const char *marker_schema; /* "pgcutover": its table marker is seen, not applied */
    int batch_changes;
    int64_t batch_bytes;
};

struct apply_stats {
    bool failed;
    bool held;        /* at a transaction boundary, everything before it committed */
    bool idle;        /* nothing left in the spool */
    lsn_t commit_lsn; /* of the last transaction committed on the target */
    lsn_t end_lsn;    /* its end, or a later position up to which the source had nothing */
    lsn_t
        last_change_lsn; /* commit LSN of the last transaction with a change other than a marker */
    int64_t marker;      /* highest marker committed */
    int64_t transactions, inserts, updates, deletes, truncates;
    int64_t skipped;         /* changes of tables that the map skips */
    int64_t batches, redone; /* target transactions; groups done again change by change */
    int64_t commit_time_us;  /* source commit time of the last one, Unix microseconds; for lag in
                                seconds */
};

/* A connection that is lost is made again with backoff (0.1 s to 5 s), for ever; what became of a
 * COMMIT is read from the progress row. batch_changes and batch_bytes bound what is gathered (0:
 * defaults); a source transaction of any size passes in parts. marker_schema, touched
 * and changed may be NULL. */
bool apply_start(struct apply **out, const struct apply_options *o, struct error *err) WARN_UNUSED;
void apply_stop(struct apply *a); /* rolls back what is open, ends and frees; NULL is allowed */
void apply_stats(struct apply *a, struct apply_stats *out);
bool apply_error(struct apply *a,
                 struct error *err); /* false and err filled when the thread failed */

/* Stop at the next transaction boundary with everything committed; waits for it. On failure it is
 * as if nothing had been asked. This and the waits below heed a stop request (ERR_STOPPED). */
bool apply_hold(struct apply *a, int64_t deadline_us, struct error *err) WARN_UNUSED;
/* From held: apply exactly the transactions whose commit LSN is < lsn, then be held again; waits
 * for it. The source must have written something past lsn (a marker), or the wait never ends. On
 * failure it is held at the next boundary. ERR_INTERNAL when it is past lsn already. */
bool apply_run_to(struct apply *a, lsn_t lsn, int64_t deadline_us, struct error *err) WARN_UNUSED;
void apply_go_on(struct apply *a);
/* Waits until marker n is committed on the target. ERR_BUDGET on the deadline, the thread's own
 * error if it failed. */
bool apply_wait_marker(struct apply *a, int64_t n, int64_t deadline_us,
                       struct error *err) WARN_UNUSED;

/* Which keys the spool has changed, without applying: from its beginning to commit LSN < to. For
 * the proof. Waits until the spool has come that far. */
bool apply_scan_touched(struct spool *spool, const struct map *map, lsn_t to, struct touched *out,
                        struct error *err) WARN_UNUSED;

/* On the target, when the run is over: its replication origin. Missing is fine. */
bool apply_drop_origin(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;

#endif
