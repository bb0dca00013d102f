/* Segment files: made, written through the buffer, cut back to the last whole transaction, trimmed.
 */
#include "repl/spool_internal.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Write-back starts in steps of this, so that the sync of a full segment finds little left to do.
 */
#define WRITEBACK_STEP ((int64_t) 8 * 1024 * 1024)

bool spool_full(struct spool *s, struct error *err)
{
    if (err->code == ERR_FULL)
        error_hint(err,
                   "Free space in \"%s\" or raise spool_limit in [capture], then resume the run.",
                   s->dir);
    return false;
}

static bool break_down(struct spool *s, const struct error *why)
{
    s->broken = true;
    s->why = *why;
    return false;
}

static bool write_out(struct spool *s, const void *data, size_t len, struct error *err)
{
    if (!file_write_all(s->fd, data, len, s->dir, err))
        return spool_full(s, err);
    s->written += (int64_t) len;
    if (s->written - s->hinted >= WRITEBACK_STEP) {
        sync_file_range(s->fd, s->hinted, s->written - s->hinted, SYNC_FILE_RANGE_WRITE);
        s->hinted = s->written;
    }
    return true;
}

bool spool_flush(struct spool *s, struct error *err)
{
    size_t n = s->buffered;
    s->buffered = 0;
    return n == 0 || write_out(s, s->buffer, n, err);
}

/* Creates the file with its first record, all of it durable, the directory entry too. */
static int create(struct spool *s, const struct spool_segment *seg, struct error *err)
{
    unsigned char header[SPOOL_SEGMENT_HEADER];
    char *path = spool_segment_path(s, seg->number);
    bool ok = false;

    spool_put_segment(header, seg);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        error_set_errno(err, errno, "could not create spool segment \"%s\"", path);
        goto out;
    }
    if (!file_write_all(fd, header, sizeof header, path, err))
        goto out;
    if (fdatasync(fd) != 0) {
        error_set_errno(err, errno, "could not sync spool segment \"%s\"", path);
        goto out;
    }
    ok = file_sync_dir(s->dir, err);
out:
    if (!ok && fd >= 0) {
        close(fd);
        unlink(path);
        fd = -1;
    }
    free(path);
    return fd;
}

/* The segment before is whole and durable before there is a next one. */
static bool finish_last(struct spool *s, struct error *err)
{
    if (s->fd < 0)
        return true;
    if (!spool_flush(s, err))
        return false;
    if (fdatasync(s->fd) != 0) {
        error_set_errno(err, errno, "could not sync the spool in \"%s\"", s->dir);
        return break_down(s, err);
    }
    pthread_mutex_lock(&s->mutex);
    s->synced = s->end;
    pthread_mutex_unlock(&s->mutex);
    return true;
}

bool spool_segment_start(struct spool *s, uint64_t number, struct error *err)
{
    if (!finish_last(s, err))
        return false;
    struct spool_segment seg = {.number = number,
                                .last_commit = s->last_commit,
                                .end = s->end,
                                .open_commit = s->in_transaction ? s->open_commit : 0};
    int fd = create(s, &seg, err);
    if (fd < 0)
        return spool_full(s, err);

    pthread_mutex_lock(&s->mutex);
    if (s->nsegments > 0)
        s->segments[s->nsegments - 1].bytes = s->written;
    *VEC_ADD(s->segments, s->nsegments, s->capsegments) = seg;
    if (s->nsegments == 1)
        s->visible = (struct spool_place){number, (int64_t) SPOOL_SEGMENT_HEADER};
    pthread_mutex_unlock(&s->mutex);

    if (s->fd >= 0)
        close(s->fd);
    s->fd = fd;
    s->number = number;
    s->seed = spool_seed(number);
    s->written = (int64_t) SPOOL_SEGMENT_HEADER;
    s->hinted = 0;
    atomic_fetch_add(&s->bytes, (int64_t) SPOOL_SEGMENT_HEADER);
    return true;
}

bool spool_segment_reopen(struct spool *s, uint64_t number, struct error *err)
{
    char *path = spool_segment_path(s, number);
    s->number = number;
    s->fd = open(path, O_RDWR | O_CLOEXEC);
    if (s->fd < 0)
        error_set_errno(err, errno, "could not open spool segment \"%s\"", path);
    free(path);
    return s->fd >= 0;
}

static bool remove_last(struct spool *s, struct error *err)
{
    char *path = spool_segment_path(s, s->number);
    bool ok = true;

    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    if (unlink(path) != 0 && errno != ENOENT)
        ok = error_set_errno(err, errno, "could not remove spool segment \"%s\"", path);
    free(path);
    if (!ok)
        return false;
    pthread_mutex_lock(&s->mutex);
    s->nsegments--;
    pthread_mutex_unlock(&s->mutex);
    return spool_segment_reopen(s, s->number - 1, err);
}

/* From the last one backwards: whatever of this a crash leaves undone, what remains has no gap. */
static bool remove_later(struct spool *s, struct error *err)
{
    while (s->number > s->visible.number)
        if (!remove_last(s, err))
            return false;
    return file_sync_dir(s->dir, err);
}

void spool_cut(struct spool *s)
{
    struct error err = {0};
    int64_t total = 0;

    s->buffered = 0;
    s->in_transaction = false;
    if (s->broken)
        return;
    if (s->number != s->visible.number && !remove_later(s, &err)) {
        break_down(s, &err);
        return;
    }
    if (ftruncate(s->fd, (off_t) s->visible.offset) != 0 ||
        lseek(s->fd, (off_t) s->visible.offset, SEEK_SET) < 0) {
        error_set_errno(&err, errno, "could not cut the spool in \"%s\" back to %" PRId64, s->dir,
                        s->visible.offset);
        break_down(s, &err);
        return;
    }
    s->seed = spool_seed(s->visible.number);
    s->written = s->visible.offset;
    if (s->hinted > s->written)
        s->hinted = s->written;
    pthread_mutex_lock(&s->mutex);
    for (size_t i = 0; i + 1 < s->nsegments; i++)
        total += s->segments[i].bytes;
    atomic_store(&s->bytes, total + s->written);
    pthread_mutex_unlock(&s->mutex);
}

/*
 * What the first segment holds is below lsn and durable: whole transactions, and the one that is
 * open at its end, whose commit must not get lost with a torn tail when its beginning is gone.
 */
static bool first_below(const struct spool *s, lsn_t lsn)
{
    const struct spool_segment *next = &s->segments[1];
    lsn_t highest = next->open_commit ? next->open_commit : next->last_commit;
    return highest < lsn && (highest == 0 || highest < s->synced);
}

/* Takes the first segment off the list when it may go. */
static bool pop_first(struct spool *s, lsn_t lsn, struct spool_segment *first)
{
    bool may;
    pthread_mutex_lock(&s->mutex);
    may = s->segments[0].number < s->visible.number &&
          s->segments[0].number < spool_first_needed(s) && first_below(s, lsn);
    if (may) {
        *first = s->segments[0];
        s->nsegments--;
        atomic_fetch_sub(&s->bytes, first->bytes);
        memmove(s->segments, s->segments + 1, s->nsegments * sizeof *s->segments);
    }
    pthread_mutex_unlock(&s->mutex);
    return may;
}

static void put_back(struct spool *s, const struct spool_segment *first)
{
    pthread_mutex_lock(&s->mutex);
    VEC_ADD(s->segments, s->nsegments, s->capsegments);
    memmove(s->segments + 1, s->segments, (s->nsegments - 1) * sizeof *s->segments);
    s->segments[0] = *first;
    atomic_fetch_add(&s->bytes, first->bytes);
    pthread_mutex_unlock(&s->mutex);
}

bool spool_trim(struct spool *s, lsn_t lsn, struct error *err)
{
    struct spool_segment first;
    bool ok = true;

    while (ok && pop_first(s, lsn, &first)) {
        char *path = spool_segment_path(s, first.number);
        if (unlink(path) != 0 && errno != ENOENT) {
            ok = error_set_errno(err, errno, "could not remove spool segment \"%s\"", path);
            put_back(s, &first);
        }
        free(path);
    }
    return ok;
}
