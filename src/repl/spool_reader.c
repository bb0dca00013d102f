/*
 * Readers follow the files up to `visible`, which they look at under the mutex only when they have
 * read what they know of. The segment that a reader stands in, and all later ones, are not trimmed.
 */
#include "repl/spool_internal.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdlib.h>

struct spool_reader {
    struct spool *s;
    struct spool_reader *next; /* of s->readers */
    uint64_t number;           /* the segment; under the mutex, for trim */
    struct spool_stream stream;
    lsn_t after;
    lsn_t end; /* of what was returned */
    bool in_transaction;
    bool wanted; /* the transaction is past `after` */
};

uint64_t spool_first_needed(const struct spool *s)
{
    uint64_t first = UINT64_MAX;
    for (const struct spool_reader *r = s->readers; r; r = r->next)
        if (r->number < first)
            first = r->number;
    return first;
}

/* Where the first transaction past `after` begins: the last segment before whose beginning all
 * ended at or before. */
static const struct spool_segment *first_segment(const struct spool *s, lsn_t after)
{
    size_t i = s->nsegments - 1;
    while (i > 0 && (s->segments[i].last_commit > after || s->segments[i].open_commit > after))
        i--;
    return &s->segments[i];
}

/* 0 is the beginning, whatever was trimmed before it. */
static bool check_trimmed(const struct spool *s, const struct spool_segment *seg, lsn_t after,
                          struct error *err)
{
    char a[LSN_SIZE];
    char b[LSN_SIZE];
    lsn_t gone = seg->open_commit ? seg->open_commit : seg->last_commit;

    if (after == 0 || gone <= after)
        return true;
    return error_set(err, ERR_IO,
                     "the spool in \"%s\" begins after %s, transactions after %s are asked for",
                     s->dir, lsn_str(b, gone), lsn_str(a, after));
}

bool spool_reader_open(struct spool *s, lsn_t after, struct spool_reader **out, struct error *err)
{
    struct spool_reader *r = xcalloc(1, sizeof *r);
    bool ok;

    *out = NULL;
    r->s = s;
    r->after = after;
    spool_stream_init(&r->stream, s->opt.buffer_bytes);
    pthread_mutex_lock(&s->mutex);
    const struct spool_segment *seg = first_segment(s, after);
    r->number = seg->number;
    ok = check_trimmed(s, seg, after, err) && spool_stream_open(&r->stream, s, seg->number, err);
    r->stream.limit = 0;
    if (ok) {
        r->next = s->readers;
        s->readers = r;
    }
    pthread_mutex_unlock(&s->mutex);
    if (!ok) {
        spool_stream_release(&r->stream);
        free(r);
        return false;
    }
    *out = r;
    return true;
}

void spool_reader_close(struct spool_reader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->s->mutex);
    struct spool_reader **at = &r->s->readers;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    pthread_mutex_unlock(&r->s->mutex);
    spool_stream_release(&r->stream);
    free(r);
}

static const struct spool_segment *find(const struct spool *s, uint64_t number)
{
    return &s->segments[number - s->segments[0].number];
}

/* How far the reader's segment may be read now. Under the mutex. */
static int64_t readable(const struct spool_reader *r)
{
    const struct spool *s = r->s;
    return r->number == s->visible.number ? s->visible.offset : find(s, r->number)->bytes;
}

/* What was known is read: more of this segment, or the next one, or wait. Under the mutex. */
static enum spool_read advance(struct spool_reader *r, int64_t deadline, struct error *err)
{
    struct spool *s = r->s;

    for (;;) {
        r->stream.limit = readable(r);
        if (r->stream.offset < r->stream.limit)
            return SPOOL_GOT;
        if (r->number < s->visible.number) {
            if (!spool_stream_open(&r->stream, s, r->number + 1, err))
                return SPOOL_ERROR;
            r->number++;
        } else if (deadline == 0 || !thread_cond_wait(&s->more, &s->mutex, deadline)) {
            return SPOOL_EMPTY;
        }
    }
}

static enum spool_read wait_for_more(struct spool_reader *r, int timeout_ms, struct error *err)
{
    int64_t deadline = timeout_ms > 0 ? clock_in_ms(timeout_ms) : 0;

    pthread_mutex_lock(&r->s->mutex);
    enum spool_read rc = advance(r, deadline, err);
    pthread_mutex_unlock(&r->s->mutex);
    return rc;
}

static bool damaged(const struct spool_reader *r, struct error *err)
{
    char *path = spool_segment_path(r->s, r->number);
    error_set(err, ERR_IO, "spool segment \"%s\" is damaged at byte %" PRId64 ": %s", path,
              r->stream.offset, "a record with a wrong checksum");
    free(path);
    return false;
}

/* True when the record is one for the caller. */
static bool take(struct spool_reader *r, const struct spool_raw *raw, struct spool_record *out)
{
    struct spool_segment seg;
    lsn_t position = 0;

    *out = (struct spool_record){
        .kind = (enum spool_kind) raw->kind, .lsn = raw->lsn, .data = raw->data, .len = raw->len};
    switch (raw->kind) {
    case SPOOL_SEGMENT:
        if (spool_get_segment(raw, &seg) && !seg.open_commit)
            position = seg.end;
        break;
    case SPOOL_BEGIN:
        r->in_transaction = true;
        r->wanted = raw->lsn > r->after;
        break;
    case SPOOL_MESSAGE:
        return r->in_transaction && r->wanted;
    case SPOOL_COMMIT:
        r->in_transaction = false;
        r->end = spool_get_end(raw);
        break;
    default:
        position = raw->lsn;
    }
    if (position <= r->end || position <= r->after)
        return false;
    r->end = position;
    *out = (struct spool_record){.kind = SPOOL_POSITION, .lsn = position};
    return true;
}

enum spool_read spool_next(struct spool_reader *r, int timeout_ms, struct spool_record *out,
                           struct error *err)
{
    struct spool_raw raw;

    for (;;) {
        switch (spool_stream_next(&r->stream, &raw, err)) {
        case STREAM_RECORD:
            if (take(r, &raw, out))
                return SPOOL_GOT;
            break;
        case STREAM_END: {
            enum spool_read rc = wait_for_more(r, timeout_ms, err);
            if (rc != SPOOL_GOT)
                return rc;
            break;
        }
        case STREAM_BAD:
            damaged(r, err);
            return SPOOL_ERROR;
        case STREAM_IO:
            return SPOOL_ERROR;
        }
    }
}
