/*
 * spool.h - captured messages in segment files until they are durable on the target.
 *
 * One writer (capture), one or more readers, in one process; spool_trim may be called from any one
 * thread. Segment files are <dir>/<number, 16 hex>.spool, numbered from 1 without a gap (LSNs of a
 * transaction's messages aren't in the order of the spool, so they name nothing); each record:
 * length, CRC-32C, kind, LSN, payload (big-endian, no raw structs; spool_internal.h). A
 * transaction's records are contiguous and the spool always ends, for readers and after recovery,
 * at the end of a whole transaction: what follows the last whole one (torn tail, lost connection)
 * is cut off. The spool's order is commit order (TRAPS 1): a transaction that commits before the
 * spool's end is ERR_PROTOCOL. ERR_FULL when the limit or the disk is reached: the writer's
 * transaction is cut off, everything before it stays readable, and durable after a sync. So it is
 * with every failure of a writer's call. After a failed fsync the spool takes nothing more until it
 * is opened again. Opening reads every record. A torn tail is cut off; any other damage, or a
 * missing segment, is ERR_IO. last_commit and end outlive the trimming of all transactions.
 */
#ifndef PGCUTOVER_REPL_SPOOL_H
#define PGCUTOVER_REPL_SPOOL_H

#include "base/error.h"
#include "base/lsn.h"

#include <stddef.h>
#include <stdint.h>

struct spool;
struct spool_reader;

enum spool_kind {
    SPOOL_MESSAGE = 1, /* one pgoutput message, bytes as received; lsn its WAL position */
    SPOOL_POSITION =
        2 /* the source has nothing to send below lsn (keepalive outside a transaction) */
};

struct spool_record {
    enum spool_kind kind;
    lsn_t lsn;
    const void *data; /* valid until the next spool_next */
    size_t len;
};

/* limit_bytes 0: none. The directory is made when it is missing. */
bool spool_open(struct spool **out, const char *dir, int64_t limit_bytes,
                struct error *err) WARN_UNUSED;
void spool_close(struct spool *s);
bool spool_remove(const char *dir, struct error *err) WARN_UNUSED;

/* Writer. The caller says where transactions begin and end. spool_commit makes the transaction
 * visible to readers (not durable); spool_sync makes everything committed so far durable. */
bool spool_begin(struct spool *s, lsn_t commit_lsn, struct error *err) WARN_UNUSED;
bool spool_append(struct spool *s, lsn_t lsn, const void *data, size_t len,
                  struct error *err) WARN_UNUSED;
bool spool_commit(struct spool *s, lsn_t commit_lsn, lsn_t end_lsn, struct error *err) WARN_UNUSED;
void spool_abandon(struct spool *s); /* cut off the transaction that is being written */
bool spool_position(struct spool *s, lsn_t lsn,
                    struct error *err) WARN_UNUSED; /* between transactions only */
bool spool_sync(struct spool *s, struct error *err) WARN_UNUSED;

lsn_t spool_last_commit(
    const struct spool *s);             /* commit_lsn of the last whole transaction, 0 if none */
lsn_t spool_end(const struct spool *s); /* end_lsn of it, or of a later position: go on from here */
lsn_t spool_synced(const struct spool *s);  /* as spool_end, durable part */
int64_t spool_bytes(const struct spool *s); /* on disk now */

/* Deletes segments that hold nothing at or past lsn (a commit LSN that is durable on the target).
 * Never the one being written, nor one that a reader is at or before, nor what isn't durable
 * itself. */
bool spool_trim(struct spool *s, lsn_t lsn, struct error *err) WARN_UNUSED;

/* Readers, to be closed before the spool. Starts at the first transaction whose commit LSN is >
 * after (0: the beginning, whatever was trimmed). ERR_IO when transactions past `after` are trimmed
 * already. */
bool spool_reader_open(struct spool *s, lsn_t after, struct spool_reader **out,
                       struct error *err) WARN_UNUSED;
void spool_reader_close(struct spool_reader *r);
enum spool_read { SPOOL_GOT, SPOOL_EMPTY, SPOOL_ERROR };
/* Waits at most timeout_ms for more. Memory: a buffer, or the largest record. A wrong checksum is
 * ERR_IO. */
enum spool_read spool_next(struct spool_reader *r, int timeout_ms, struct spool_record *out,
                           struct error *err) WARN_UNUSED;

#endif
