/* apply_private.h - what the files of apply share and nobody else sees. */
#ifndef PGCUTOVER_REPL_APPLY_PRIVATE_H
#define PGCUTOVER_REPL_APPLY_PRIVATE_H

#include "repl/apply.h"
#include "repl/batch.h"
#include "sys/thread.h"

#include <stdatomic.h>

enum apply_mode {
    MODE_RUN,
    MODE_HOLD, /* stop at the next boundary */
    MODE_TO    /* stop before the first transaction that commits at or past `to` */
};

/* Whole source transactions that aren't committed on the target, and the part of one that is open.
 */
struct pending {
    bool any;
    bool flushed; /* some of it is on the target, whose transaction ends with the source's */
    lsn_t commit_lsn, end_lsn, change_lsn;
    int64_t marker, transactions, inserts, updates, deletes, truncates, skipped, commit_time_us;
};

struct apply {
    struct apply_options o; /* its strings are ours */
    pthread_t thread;
    atomic_bool stop;

    pthread_mutex_t mutex; /* for what follows */
    pthread_cond_t cond;
    enum apply_mode mode;
    lsn_t to;
    struct apply_stats stats;
    struct error error;
    bool ended;
    PGcancel *cancel; /* of the open session, so that the end needn't wait for a statement */

    /* the thread's own */
    struct pg *pg;
    struct pg_identity identity;
    bool warned_origin;
    struct batch *batch;
    struct relations *relations;
    struct arena *scratch; /* messages that are no changes */
    struct spool_reader *reader;
    struct spool_record record;
    bool have; /* record is read and not taken */
    struct {
        bool open;
        bool done; /* it was applied before */
        bool own;  /* replay's own writing in the other direction: it has our origin */
        lsn_t commit_lsn;
    } txn; /* the source transaction that is being read */
    struct pending pending;
    bool committing; /* COMMIT was sent and its outcome isn't known */
    lsn_t committed; /* the progress row's commit LSN as last known */
    lsn_t end;       /* as stats.end_lsn */
    int64_t next_trim_us;
};

/* apply_session.c */
/* Opens the session, alone (any older one of this run has ended when it returns), and reads the
 * progress. */
bool session_open(struct apply *a, lsn_t *commit_lsn, lsn_t *end_lsn,
                  struct error *err) WARN_UNUSED;
void session_close(struct apply *a);
/* After a lost connection (tries for ever, false when asked to stop) or a passing trouble: settles
 * what became of a COMMIT, and reads the spool again from the progress row. */
bool session_recover(struct apply *a, struct error *err) WARN_UNUSED;
/* Is it the origin of this run's replay, in whichever direction? */
bool origin_is_ours(const char *run, const char *name);
bool reader_start(struct apply *a, struct error *err) WARN_UNUSED;

/* apply_take.c: records into the batch, the batch into the target */
bool take_record(struct apply *a, struct error *err) WARN_UNUSED;
/* Where the record that was read stands: no transaction below it is to come. 0: it says nothing. */
bool record_position(struct apply *a, lsn_t *out, struct error *err) WARN_UNUSED;
bool commit_pending(struct apply *a, struct error *err) WARN_UNUSED;
bool committed(struct apply *a, struct error *err) WARN_UNUSED;

#endif
