/*
 * capture.h - the thread that receives one side's changes from its logical slot and spools them.
 *
 * The slot is told an LSN only when that much is durable: CONFIRM_SPOOLED, what the spool has
 * fsynced (while cloning and migrating, to spare the source's disk); CONFIRM_APPLIED, only what the
 * target has flushed as told by capture_set_applied (once caught up: the spool is then a cache). A
 * keepalive never passes pending work (TRAPS 4, 5). Connections that break are made again with
 * backoff (0.1 s to 5 s), from the spool's end; on every reconnect system identifier, timeline,
 * database and slot are checked: a lost slot or another timeline ends the thread with ERR_VOID. A
 * transaction already spooled (commit LSN at or below the spool's last) is passed over.
 *
 * ERR_VOID as well: the database is gone, the slot's WAL is lost, the publication can't be found at
 * the LSN that is decoded, or the slot was told more than the spool holds. ERR_FULL and ERR_IO are
 * the spool's. What is refused for another reason before it ever streamed (a privilege, a password)
 * ends the thread with ERR_CONNECT or ERR_SQL; later the same is tried again for ever, with an
 * event_warn at first and each minute.
 */
#ifndef PGCUTOVER_REPL_CAPTURE_H
#define PGCUTOVER_REPL_CAPTURE_H

#include "pg/conn.h"
#include "repl/spool.h"

struct capture;

struct capture_options {
    const char *conninfo;
    const char *dbname; /* or NULL */
    const char *run;    /* for application_name */
    const char *worker; /* "capture" */
    const char *slot;
    const char *publication;
    const char *encoding;        /* client_encoding of the walsender; NULL: the database's */
    struct pg_identity identity; /* the source's, as first seen */
    lsn_t start;                 /* the slot's consistent point, when the spool is empty */
    struct spool *spool;         /* outlives the capture */
};

struct capture_stats {
    bool connected;
    bool failed;      /* the thread ended with an error: capture_error */
    lsn_t received;   /* end of the last message */
    lsn_t server_end; /* the source's WAL end as last told */
    lsn_t confirmed;  /* last flush position that the slot was told */
    int64_t transactions, messages, bytes;
    int reconnects;
    int64_t last_contact_us; /* monotonic */
};

bool capture_start(struct capture **out, const struct capture_options *o,
                   struct error *err) WARN_UNUSED;
/* Syncs the spool, sends a last confirmation, ends and frees; NULL is allowed. Within 100 ms,
 * unless a connection is being made just then. */
void capture_stop(struct capture *c);
void capture_stats(struct capture *c, struct capture_stats *out);
bool capture_error(struct capture *c,
                   struct error *err); /* false and err filled when the thread failed */
/* SPOOLED at first. In both, never more than what is durable in the spool, and never back. */
enum capture_confirm { CONFIRM_SPOOLED, CONFIRM_APPLIED };
void capture_confirm(struct capture *c, enum capture_confirm how);
void capture_set_applied(struct capture *c,
                         lsn_t lsn); /* durable on the target (a commit or end LSN); never
                                      * goes back. At or past the spool's last commit: nothing is
                                      * left to apply, what the spool knows goes along */

#endif
