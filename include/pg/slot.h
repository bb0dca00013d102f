/*
 * slot.h - publications, replication slots, exported snapshots, replica identities.
 * https://www.postgresql.org/docs/15/protocol-replication.html, logicaldecoding-explanation.html
 */
#ifndef PGCUTOVER_PG_SLOT_H
#define PGCUTOVER_PG_SLOT_H

#include "pg/catalog.h"

struct slot_snapshot {
    lsn_t consistent_point; /* the snapshot sees exactly the transactions whose commit record lies
                               before it */
    char snapshot[64]; /* for SET TRANSACTION SNAPSHOT; valid while the walsender connection stays
                          idle */
};

struct slot_info {
    bool exists;
    bool active;
    int active_pid;
    char plugin[64];
    char database[64];
    lsn_t restart_lsn, confirmed_flush;
    char wal_status[16];    /* "" before 13; "lost" means it can't be used any more */
    int64_t retained_bytes; /* current WAL position minus restart_lsn */
};

/* Creates a pgoutput slot and exports its snapshot on this walsender connection, which must stay
 * idle as long as the snapshot is wanted. Waits for every transaction of the whole cluster that is
 * open (TRAPS 17, 63): set a deadline on the connection first; on timeout the error names the
 * blocking pids (asked through `control`). */
bool slot_create(struct pg *walsender, struct pg *control, const char *name, bool temporary,
                 struct slot_snapshot *out, struct error *err) WARN_UNUSED;
/* Without a snapshot, through SQL. For the way back. */
bool slot_create_plain(struct pg *pg, const char *name, struct error *err) WARN_UNUSED;
/* Missing is fine. An active one's walsender is terminated first when it is ours
 * (application_name). */
bool slot_drop(struct pg *pg, const char *name, struct error *err) WARN_UNUSED;
bool slot_read(struct pg *pg, const char *name, struct slot_info *out,
               struct error *err) WARN_UNUSED;

/* FOR TABLE with every leaf (relkind r, permanent) of cat plus pgcutover.marker; exists already
 * with the same list: fine. publish = insert, update, delete, truncate; publish_via_partition_root
 * = false. lock_timeout and retries as for all DDL of ours on a live side. */
bool publication_create(struct pg *pg, const char *name, const struct catalog *cat,
                        struct error *err) WARN_UNUSED;
bool publication_drop(struct pg *pg, const char *name, struct error *err) WARN_UNUSED;

/* Replica identities. Tables whose effective identity is missing get FULL (or their usable unique
 * index when they have one), as also those in need_full (oids, 0-terminated, may be NULL); the old
 * setting is saved first in pgcutover.saved_identity, in the same transaction. Idempotent.
 * lock_timeout with retries, naming blockers. */
bool identity_fix(struct pg *pg, const char *run, const struct catalog *cat, const Oid *need_full,
                  int *changed, struct error *err) WARN_UNUSED;
bool identity_restore(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;
/* On green after restore: give the tables named in blue's saved list their old identity back. */
bool identity_copy_saved(struct pg *blue, struct pg *green, const char *run,
                         struct error *err) WARN_UNUSED;

/* An open transaction that others would wait for. Strings are cut. */
struct pg_blocker {
    int pid;
    char user[64], database[64], application[64], client[64], state[32];
    int64_t age_us;
    char query[160];
};
/* Transactions open longer than min_age_us in the whole cluster that hold an xid or a snapshot,
 * prepared ones included (pid 0, application = gid); our own left out. *out malloc'd, caller frees.
 */
bool pg_blockers(struct pg *pg, int64_t min_age_us, struct pg_blocker **out, size_t *n,
                 struct error *err) WARN_UNUSED;
void pg_blockers_describe(struct strbuf *sb, const struct pg_blocker *list,
                          size_t n); /* a line each */

/* DDL of ours on a side that serves: each try with lock_timeout_ms (deadlock_timeout 20 ms where we
 * may set it), up to the deadline; ERR_TIMEOUT names who holds the lock. */
bool pg_ddl(struct pg *pg, const char *sql, int lock_timeout_ms, int64_t deadline_us,
            struct error *err) WARN_UNUSED;

#endif
