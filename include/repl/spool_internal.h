/*
 * spool_internal.h - what the files of the spool share, and the sizes that tests make small.
 *
 * A segment file is a run of records, all integers big-endian:
 *
 *     length  u32   of the payload
 *     crc     u32   CRC-32C over the segment's number (u64), length, kind, lsn and payload
 *     kind    u8    enum spool_kind or one of the inner kinds below
 *     lsn     u64
 *     payload
 *
 * The first record of a segment is SPOOL_SEGMENT. It repeats what the spool knew when the segment
 * began, so that it survives the trimming of everything before. A record never spans segments; a
 * transaction may.
 *
 * What is durable when. A segment is fsynced before the next one is made, and a new segment's first
 * record and its directory entry before anything else is written to it. So damage anywhere but at
 * the end of the last segment is damage, never a torn tail. What is torn there was never reported
 * by spool_synced().
 */
#ifndef PGCUTOVER_REPL_SPOOL_INTERNAL_H
#define PGCUTOVER_REPL_SPOOL_INTERNAL_H

#include "repl/spool.h"

#include "base/wire.h"
#include "sys/thread.h"

#include <stdatomic.h>

#define SPOOL_RECORD_HEADER ((size_t) 17)
/* PostgreSQL's largest message is 1 GB (MaxAllocSize); the rest is room. */
#define SPOOL_RECORD_MAX ((size_t) 0x60000000)

enum { SPOOL_SEGMENT = 3, SPOOL_BEGIN = 4, SPOOL_COMMIT = 5 };

/* SPOOL_SEGMENT: lsn is the spool's end when the segment began. */
#define SPOOL_MAGIC "PGCSPOOL"
#define SPOOL_VERSION 1
#define SPOOL_SEGMENT_PAYLOAD                                                                      \
    ((size_t) 28) /* magic, version u32, last_commit u64, open_commit u64 */
#define SPOOL_SEGMENT_HEADER (SPOOL_RECORD_HEADER + SPOOL_SEGMENT_PAYLOAD)

struct spool_options {
    int64_t segment_bytes; /* a new segment when the next record would pass it */
    size_t buffer_bytes;   /* of the writer and of each reader */
};

struct spool_segment {
    uint64_t number;
    int64_t bytes;     /* final once there is a next one */
    lsn_t last_commit; /* when it began */
    lsn_t end;
    lsn_t open_commit; /* of the transaction that goes on from the segment before; 0 if none */
};

struct spool_place {
    uint64_t number;
    int64_t offset;
};

struct spool {
    char *dir;
    int64_t limit;
    struct spool_options opt;

    /* the writer's own */
    int fd;          /* of the last segment */
    uint64_t number; /* its number */
    uint32_t seed;
    unsigned char *buffer;
    size_t buffered;
    int64_t written; /* bytes of the last segment that are in the file */
    int64_t hinted;  /* up to where the kernel was asked to start writing back */
    bool in_transaction;
    lsn_t open_commit;
    bool broken; /* a sync or a cut failed: what is on disk is unknown, nothing more is written */
    struct error why;

    _Atomic int64_t
        bytes; /* of all segments, the buffer included; trim takes away under the mutex */

    /* under the mutex; the writer alone changes all but segments (trim) and readers */
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct spool_segment *segments; /* never empty, numbers without a gap */
    size_t nsegments, capsegments;
    struct spool_place visible; /* the end of the last whole transaction or position */
    lsn_t last_commit, end, synced;
    struct spool_reader *readers;
};

/* A record as it stands in the file. */
struct spool_raw {
    uint8_t kind;
    lsn_t lsn;
    const unsigned char *data; /* until the next one is read */
    size_t len;
    int64_t at; /* its offset */
};

/* Reads one segment from offset up to limit. Memory: the buffer, or the record when that is larger.
 */
struct spool_stream {
    int fd;
    uint32_t seed;
    int64_t offset; /* of the next record */
    int64_t limit;  /* where the file, or what may be read of it, ends */
    unsigned char *buffer;
    size_t size, first_size; /* now, and to go back to after a large record */
    size_t start, have;      /* the bytes at offset that are in the buffer */
};

/* spool_format.c */
enum spool_stream_result { STREAM_RECORD, STREAM_END, STREAM_BAD, STREAM_IO };
uint32_t spool_seed(uint64_t number);
void spool_put_header(unsigned char out[SPOOL_RECORD_HEADER], uint32_t seed, uint8_t kind,
                      lsn_t lsn, const void *data, size_t len);
void spool_put_segment(unsigned char out[SPOOL_SEGMENT_HEADER], const struct spool_segment *seg);
bool spool_get_segment(const struct spool_raw *raw,
                       struct spool_segment *seg); /* number and bytes untouched */
lsn_t spool_get_end(
    const struct spool_raw *raw); /* of a SPOOL_COMMIT's payload; 0 if that is malformed */
char *spool_segment_path(const struct spool *s, uint64_t number); /* caller frees */
void spool_stream_init(struct spool_stream *st, size_t buffer_bytes);
void spool_stream_release(struct spool_stream *st); /* closes fd */
/* Opens a segment (st->fd must be closed or -1) for reading from its beginning. */
bool spool_stream_open(struct spool_stream *st, const struct spool *s, uint64_t number,
                       struct error *err) WARN_UNUSED;
/* STREAM_BAD: a record that is cut short, or whose CRC or kind is wrong. Only STREAM_IO fills err.
 */
enum spool_stream_result spool_stream_next(struct spool_stream *st, struct spool_raw *out,
                                           struct error *err) WARN_UNUSED;

/* spool_recover.c: fills segments, visible, last_commit and end of s from the directory, and cuts
 * off what follows the last whole transaction. Makes the first segment in an empty directory. Opens
 * s->fd. */
bool spool_recover(struct spool *s, struct error *err) WARN_UNUSED;

/* spool_segment.c */
bool spool_segment_start(struct spool *s, uint64_t number, struct error *err) WARN_UNUSED;
/* Opens an existing segment as the last one. s->fd must be closed. */
bool spool_segment_reopen(struct spool *s, uint64_t number, struct error *err) WARN_UNUSED;
bool spool_flush(struct spool *s, struct error *err) WARN_UNUSED;
/* Back to visible: drops the buffer, removes later segments, truncates. On failure the spool is
 * broken. */
void spool_cut(struct spool *s);
bool spool_full(struct spool *s, struct error *err); /* adds the hint to ERR_FULL; always false */

/* spool_reader.c */
uint64_t spool_first_needed(
    const struct spool *s); /* lowest segment that a reader is at; under the mutex */

/* As spool_open, with sizes. */
bool spool_open_sized(struct spool **out, const char *dir, int64_t limit_bytes,
                      const struct spool_options *opt, struct error *err) WARN_UNUSED;

#endif
