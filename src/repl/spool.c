/*
 * The spool's life and its writer. Records go through one buffer into the last segment; a commit
 * flushes it and then moves `visible`, which is all that readers go by. Whatever fails on the way
 * cuts the files back to `visible`.
 */
#include "repl/spool_internal.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "base/human.h"
#include "sys/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct spool_options default_options = {
    .segment_bytes = (int64_t) 64 * 1024 * 1024,
    .buffer_bytes = (size_t) 256 * 1024,
};

bool spool_open(struct spool **out, const char *dir, int64_t limit_bytes, struct error *err)
{
    return spool_open_sized(out, dir, limit_bytes, &default_options, err);
}

bool spool_open_sized(struct spool **out, const char *dir, int64_t limit_bytes,
                      const struct spool_options *opt, struct error *err)
{
    *out = NULL;
    if (!file_make_dir(dir, err))
        return false;
    struct spool *s = xcalloc(1, sizeof *s);
    s->dir = xstrdup(dir);
    s->limit = limit_bytes;
    s->opt = *opt;
    s->fd = -1;
    s->buffer = xmalloc(opt->buffer_bytes);
    pthread_mutex_init(&s->mutex, NULL);
    thread_cond_init(&s->more);
    if (!spool_recover(s, err)) {
        spool_close(s);
        return false;
    }
    *out = s;
    return true;
}

void spool_close(struct spool *s)
{
    if (!s)
        return;
    if (s->readers)
        BUG("spool closed under a reader");
    spool_abandon(s);
    if (s->fd >= 0)
        close(s->fd);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->mutex);
    free(s->segments);
    free(s->buffer);
    free(s->dir);
    free(s);
}

bool spool_remove(const char *dir, struct error *err)
{
    return file_remove_tree(dir, err);
}

static bool check_limit(struct spool *s, size_t more, struct error *err)
{
    char now[HUMAN_SIZE];
    char limit[HUMAN_SIZE];
    int64_t bytes = atomic_load(&s->bytes);

    if (s->limit <= 0 || bytes + (int64_t) more <= s->limit)
        return true;
    error_set(err, ERR_FULL, "the spool in \"%s\" holds %s, its limit is %s", s->dir,
              human_bytes(now, bytes), human_bytes(limit, s->limit));
    return spool_full(s, err);
}

static bool add_bytes(struct spool *s, const void *data, size_t len, struct error *err)
{
    const unsigned char *p = data;
    while (len > 0) {
        size_t n = s->opt.buffer_bytes - s->buffered;
        if (n > len)
            n = len;
        memcpy(s->buffer + s->buffered, p, n);
        s->buffered += n;
        p += n;
        len -= n;
        if (s->buffered == s->opt.buffer_bytes && !spool_flush(s, err))
            return false;
    }
    return true;
}

/* Leaves half a record behind when it fails: the caller cuts. */
static bool put_record(struct spool *s, uint8_t kind, lsn_t lsn, const void *data, size_t len,
                       struct error *err)
{
    unsigned char header[SPOOL_RECORD_HEADER];
    size_t whole = sizeof header + len;

    if (len > SPOOL_RECORD_MAX)
        return error_set(err, ERR_PROTOCOL,
                         "a message of %zu bytes is larger than PostgreSQL sends", len);
    if (!check_limit(s, whole, err))
        return false;
    int64_t at = s->written + (int64_t) s->buffered;
    if (at > (int64_t) SPOOL_SEGMENT_HEADER && at + (int64_t) whole > s->opt.segment_bytes &&
        !spool_segment_start(s, s->number + 1, err))
        return false;
    atomic_fetch_add(&s->bytes, (int64_t) whole);
    spool_put_header(header, s->seed, kind, lsn, data, len);
    return add_bytes(s, header, sizeof header, err) && add_bytes(s, data, len, err);
}

static bool usable(const struct spool *s, struct error *err)
{
    if (s->broken)
        *err = s->why;
    return !s->broken;
}

/* Readers see everything that was written so far. */
static void publish(struct spool *s, lsn_t last_commit, lsn_t end)
{
    pthread_mutex_lock(&s->mutex);
    s->visible = (struct spool_place){s->number, s->written};
    s->last_commit = last_commit;
    s->end = end;
    pthread_cond_broadcast(&s->more);
    pthread_mutex_unlock(&s->mutex);
}

bool spool_begin(struct spool *s, lsn_t commit_lsn, struct error *err)
{
    char a[LSN_SIZE];
    char b[LSN_SIZE];

    if (s->in_transaction)
        BUG("transaction begun inside another");
    if (!usable(s, err))
        return false;
    if (commit_lsn <= s->last_commit || commit_lsn < s->end)
        return error_set(err, ERR_PROTOCOL, "transaction commits at %s, before the spool's end %s",
                         lsn_str(a, commit_lsn), lsn_str(b, s->end));
    if (!put_record(s, SPOOL_BEGIN, commit_lsn, NULL, 0, err)) {
        spool_cut(s);
        return false;
    }
    s->in_transaction = true;
    s->open_commit = commit_lsn;
    return true;
}

bool spool_append(struct spool *s, lsn_t lsn, const void *data, size_t len, struct error *err)
{
    if (!s->in_transaction)
        BUG("record outside a transaction");
    if (FAULT("spool.append", err) && put_record(s, SPOOL_MESSAGE, lsn, data, len, err))
        return true;
    spool_cut(s);
    return false;
}

bool spool_commit(struct spool *s, lsn_t commit_lsn, lsn_t end_lsn, struct error *err)
{
    struct strbuf payload = {0};

    if (!s->in_transaction || commit_lsn != s->open_commit || end_lsn <= commit_lsn)
        BUG("commit of another transaction");
    wire_put_u64(&payload, end_lsn);
    bool ok = put_record(s, SPOOL_COMMIT, commit_lsn, payload.data, payload.len, err) &&
              spool_flush(s, err);
    strbuf_release(&payload);
    if (!ok) {
        spool_cut(s);
        return false;
    }
    s->in_transaction = false;
    publish(s, commit_lsn, end_lsn);
    return true;
}

void spool_abandon(struct spool *s)
{
    if (s->in_transaction)
        spool_cut(s);
}

bool spool_position(struct spool *s, lsn_t lsn, struct error *err)
{
    if (s->in_transaction)
        BUG("position inside a transaction");
    if (!usable(s, err))
        return false;
    if (lsn <= s->end)
        return true;
    if (!put_record(s, SPOOL_POSITION, lsn, NULL, 0, err) || !spool_flush(s, err)) {
        spool_cut(s);
        return false;
    }
    publish(s, s->last_commit, lsn);
    return true;
}

/*
 * A failed fsync is final: the kernel may have dropped the pages and marked them clean, so that a
 * second one would succeed without them (PostgreSQL's data_sync_retry says the same of its own
 * files).
 */
bool spool_sync(struct spool *s, struct error *err)
{
    if (!usable(s, err))
        return false;
    if (s->synced == s->end)
        return true;
    /* a segment that isn't the last one was synced when the next was made */
    if (s->number == s->visible.number && fdatasync(s->fd) != 0) {
        error_set_errno(err, errno, "could not sync the spool in \"%s\"", s->dir);
        spool_full(s, err);
        s->broken = true;
        s->why = *err;
        return false;
    }
    pthread_mutex_lock(&s->mutex);
    s->synced = s->end;
    pthread_mutex_unlock(&s->mutex);
    return true;
}

static lsn_t locked_lsn(const struct spool *s, const lsn_t *value)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *) &s->mutex;
    pthread_mutex_lock(mutex);
    lsn_t lsn = *value;
    pthread_mutex_unlock(mutex);
    return lsn;
}

lsn_t spool_last_commit(const struct spool *s)
{
    return locked_lsn(s, &s->last_commit);
}

lsn_t spool_end(const struct spool *s)
{
    return locked_lsn(s, &s->end);
}

lsn_t spool_synced(const struct spool *s)
{
    return locked_lsn(s, &s->synced);
}

int64_t spool_bytes(const struct spool *s)
{
    return atomic_load((_Atomic int64_t *) &s->bytes);
}
