/*
 * facts.h - schema "pgcutover" on both sides: what recovery needs when the host of the run is lost,
 * the arbiter of the switch, the markers, and replay's position. Every statement is idempotent. DDL
 * here takes no lock that clients could wait for (new objects only).
 *
 *   pgcutover.fact(run, key, value)              free facts of the run: step, slot, publication,
 * token ... pgcutover.arbiter(run, state, at)            armed -> committing | revoked, by
 * compare-and-set pgcutover.marker(run, n)                     published; a bump of n travels
 * through the slot pgcutover.progress(run, worker, commit_lsn, end_lsn)   replay's position, on the
 * target pgcutover.saved_identity(run, relation, ...) replica identities to put back
 *   pgcutover.fence()                            the fence triggers' function
 */
#ifndef PGCUTOVER_PG_FACTS_H
#define PGCUTOVER_PG_FACTS_H

#include "pg/catalog.h"

/* Safe to run twice, also at once; makes the run's marker row. */
bool facts_install(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;
/* Deletes the run's rows; drops the schema when no other run has rows in it. Refuses while fence
 * triggers stand. */
bool facts_uninstall(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;
bool facts_installed(struct pg *pg, bool *yes, struct error *err) WARN_UNUSED;
bool fact_set(struct pg *pg, const char *run, const char *key, const char *value,
              struct error *err) WARN_UNUSED;
/* *value NULL when there is none (schema missing included); caller frees. */
bool fact_get(struct pg *pg, const char *run, const char *key, char **value,
              struct error *err) WARN_UNUSED;

bool arbiter_arm(struct pg *pg, const char *run,
                 struct error *err) WARN_UNUSED; /* -> armed, whatever it was */
/* UPDATE ... SET state = to WHERE state = from, in the caller's transaction if one is open. */
bool arbiter_swap(struct pg *pg, const char *run, const char *from, const char *to, bool *won,
                  struct error *err) WARN_UNUSED;
/* A new run of an old name begins: what the row says is not about it. */
bool arbiter_forget(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;
bool arbiter_read(struct pg *pg, const char *run, char state[32],
                  struct error *err) WARN_UNUSED; /* "" if none */

/* Bumps the marker in a transaction of its own (synchronous_commit as it is); *n is the new number
 * and *lsn a position at or after its commit record. */
bool marker_write(struct pg *pg, const char *run, int64_t *n, lsn_t *lsn,
                  struct error *err) WARN_UNUSED;

bool progress_get(struct pg *pg, const char *run, lsn_t *commit_lsn, lsn_t *end_lsn, bool *found,
                  struct error *err) WARN_UNUSED;
bool progress_set(struct pg *pg, const char *run, lsn_t commit_lsn, lsn_t end_lsn,
                  struct error *err) WARN_UNUSED;
bool progress_clear(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;

/* Session-level advisory lock that says "a pgcutover run works on this database"; lives as long as
 * pg. */
bool run_lock(struct pg *pg,
              struct error *err) WARN_UNUSED; /* ERR_LOCKED naming the other session */

#endif
