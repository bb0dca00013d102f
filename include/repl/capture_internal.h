/*
 * capture_internal.h - what the files of the capture share.
 *
 * The thread's life: connect, stream, and after a passing fault again, until it is stopped or meets
 * a fault that won't pass. What is durable when: a transaction is readable in the spool at its
 * commit message, durable at the next sync, and only then, or when the target has it, confirmed to
 * the slot. So confirmed <= synced <= spool's end, always: a slot that was told more than the spool
 * holds is proof that changes are lost.
 */
#ifndef PGCUTOVER_REPL_CAPTURE_INTERNAL_H
#define PGCUTOVER_REPL_CAPTURE_INTERNAL_H

#include "repl/capture.h"

#include "base/arena.h"
#include "sys/thread.h"

#include <stdatomic.h>

struct capture {
    /* copies of the options */
    char *conninfo, *dbname, *run, *worker, *slot, *publication, *encoding;
    char *where; /* the source, for messages */
    struct pg_identity identity;
    lsn_t start;
    struct spool *spool;

    pthread_t thread;
    int wake; /* eventfd: readable once the thread is to stop */
    atomic_bool stopping;
    atomic_int how; /* enum capture_confirm */
    _Atomic lsn_t applied;

    pthread_mutex_t mutex; /* over stats as others see them, and the error */
    struct capture_stats shown;
    struct error error;

    /* the thread's own from here on */
    struct capture_stats stats;
    struct arena *arena;
    struct pg *pg;
    PGconn *conn;
    bool was_connected; /* streamed once: later faults are taken for passing ones */
    bool in_transaction;
    bool passed_over; /* the transaction is in the spool already */
    lsn_t commit_lsn; /* of the open transaction */
    lsn_t position;   /* told by a keepalive and not yet spooled; 0 none */
    bool reply_wanted;
    bool more_to_send; /* libpq's output buffer isn't empty */
    bool unsynced_transactions, unsynced_position;
    int64_t now, last_data, last_position, last_sync, last_status, last_look;
    int64_t unsynced_since; /* the first transaction that isn't durable */
    int64_t position_since; /* the first position that isn't */
};

enum capture_outcome {
    CAPTURE_GO,    /* all is well */
    CAPTURE_RETRY, /* a fault that may pass: connect again */
    CAPTURE_END,   /* asked to stop */
    CAPTURE_FATAL  /* err ends the thread */
};

/* capture_connect.c: c->pg is streaming from the spool's end, or err says why not. */
enum capture_outcome capture_connect(struct capture *c, struct error *err);
/* The server's refusal in res (or the connection's own fault when that has none) as an outcome. */
enum capture_outcome capture_refused(struct capture *c, const PGresult *res, const char *doing,
                                     struct error *err);
lsn_t capture_floor(
    const struct capture *c); /* go on from here: the spool's end, or start when that is empty */

/* capture_stream.c */
enum capture_outcome capture_stream(struct capture *c, struct error *err);

/* capture_confirm.c */
enum capture_outcome capture_status(struct capture *c, struct error *err); /* tells the server */
/* Positions, syncs and status updates that are due. */
enum capture_outcome capture_tick(struct capture *c, struct error *err);
int64_t capture_next_due(const struct capture *c);
void capture_goodbye(
    struct capture *c); /* makes all durable, says so, ends the stream; a bounded time */

void capture_show_stats(struct capture *c);

#endif
