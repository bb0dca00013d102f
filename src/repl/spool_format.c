/* Bytes of the spool: records, the first record of a segment, and reading a segment in order. */
#include "repl/spool_internal.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        p[i] = (unsigned char) v;
}

static void put_u64(unsigned char *p, uint64_t v)
{
    put_u32(p, (uint32_t) (v >> 32));
    put_u32(p + 4, (uint32_t) v);
}

/* Every CRC of a segment starts with its number: blocks of another segment don't pass for its own.
 */
uint32_t spool_seed(uint64_t number)
{
    unsigned char bytes[8];
    put_u64(bytes, number);
    return crc32c(0, bytes, sizeof bytes);
}

void spool_put_header(unsigned char out[SPOOL_RECORD_HEADER], uint32_t seed, uint8_t kind,
                      lsn_t lsn, const void *data, size_t len)
{
    put_u32(out, (uint32_t) len);
    out[8] = kind;
    put_u64(out + 9, lsn);
    uint32_t crc = crc32c(seed, out, 4);
    crc = crc32c(crc, out + 8, 9);
    put_u32(out + 4, len > 0 ? crc32c(crc, data, len) : crc);
}

void spool_put_segment(unsigned char out[SPOOL_SEGMENT_HEADER], const struct spool_segment *seg)
{
    unsigned char *payload = out + SPOOL_RECORD_HEADER;

    memcpy(payload, SPOOL_MAGIC, 8);
    put_u32(payload + 8, SPOOL_VERSION);
    put_u64(payload + 12, seg->last_commit);
    put_u64(payload + 20, seg->open_commit);
    spool_put_header(out, spool_seed(seg->number), SPOOL_SEGMENT, seg->end, payload,
                     SPOOL_SEGMENT_PAYLOAD);
}

bool spool_get_segment(const struct spool_raw *raw, struct spool_segment *seg)
{
    struct wire w = wire_over(raw->data, raw->len);
    const unsigned char *magic = wire_bytes(&w, 8);

    if (raw->kind != SPOOL_SEGMENT || !magic || memcmp(magic, SPOOL_MAGIC, 8) != 0 ||
        wire_u32(&w) != SPOOL_VERSION)
        return false;
    seg->end = raw->lsn;
    seg->last_commit = wire_u64(&w);
    seg->open_commit = wire_u64(&w);
    return !w.failed && wire_left(&w) == 0;
}

lsn_t spool_get_end(const struct spool_raw *raw)
{
    struct wire w = wire_over(raw->data, raw->len);
    lsn_t end = wire_u64(&w);
    return w.failed || wire_left(&w) > 0 ? 0 : end;
}

char *spool_segment_path(const struct spool *s, uint64_t number)
{
    return xstrfmt("%s/%016" PRIX64 ".spool", s->dir, number);
}

void spool_stream_init(struct spool_stream *st, size_t buffer_bytes)
{
    *st = (struct spool_stream){.fd = -1};
    st->size = st->first_size = buffer_bytes;
    st->buffer = xmalloc(buffer_bytes);
}

void spool_stream_release(struct spool_stream *st)
{
    if (st->fd >= 0)
        close(st->fd);
    st->fd = -1;
    free(st->buffer);
    st->buffer = NULL;
}

bool spool_stream_open(struct spool_stream *st, const struct spool *s, uint64_t number,
                       struct error *err)
{
    struct stat info;
    char *path = spool_segment_path(s, number);
    bool ok = false;

    if (st->fd >= 0)
        close(st->fd);
    st->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (st->fd < 0 || fstat(st->fd, &info) != 0) {
        error_set_errno(err, errno, "could not open spool segment \"%s\"", path);
        goto out;
    }
    posix_fadvise(st->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    st->seed = spool_seed(number);
    st->offset = 0;
    st->limit = info.st_size;
    st->start = st->have = 0;
    ok = true;
out:
    free(path);
    return ok;
}

/* Room for need bytes in a row; a buffer that grew for a large record goes back when it is done
 * with. */
static void make_room(struct spool_stream *st, size_t need)
{
    size_t size = need > st->first_size ? need : st->first_size;

    if (st->start > 0 && st->have > 0)
        memmove(st->buffer, st->buffer + st->start, st->have);
    st->start = 0;
    if (size > st->size || (st->size > st->first_size && st->have <= size && size < st->size / 2)) {
        st->buffer = xrealloc(st->buffer, size);
        st->size = size;
    }
}

/* The caller made sure that need bytes lie before the limit. STREAM_BAD: the file is shorter than
 * that. */
static enum spool_stream_result fill(struct spool_stream *st, size_t need, struct error *err)
{
    if (st->have >= need)
        return STREAM_RECORD;
    make_room(st, need);
    while (st->have < need) {
        int64_t at = st->offset + (int64_t) st->have;
        size_t want = st->size - st->have;
        if ((int64_t) want > st->limit - at)
            want = (size_t) (st->limit - at);
        ssize_t n = pread(st->fd, st->buffer + st->have, want, (off_t) at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            error_set_errno(err, errno, "could not read a spool segment at offset %" PRId64, at);
            return STREAM_IO;
        }
        if (n == 0)
            return STREAM_BAD;
        st->have += (size_t) n;
    }
    return STREAM_RECORD;
}

enum spool_stream_result spool_stream_next(struct spool_stream *st, struct spool_raw *out,
                                           struct error *err)
{
    int64_t left = st->limit - st->offset;
    if (left <= 0)
        return STREAM_END;
    if (left < (int64_t) SPOOL_RECORD_HEADER)
        return STREAM_BAD;
    enum spool_stream_result rc = fill(st, SPOOL_RECORD_HEADER, err);
    if (rc != STREAM_RECORD)
        return rc;

    struct wire w = wire_over(st->buffer + st->start, SPOOL_RECORD_HEADER);
    size_t len = wire_u32(&w);
    uint32_t crc = wire_u32(&w);
    if (len > SPOOL_RECORD_MAX || (int64_t) (SPOOL_RECORD_HEADER + len) > left)
        return STREAM_BAD;
    rc = fill(st, SPOOL_RECORD_HEADER + len, err);
    if (rc != STREAM_RECORD)
        return rc;

    const unsigned char *p = st->buffer + st->start;
    w = wire_over(p + 8, 9);
    *out = (struct spool_raw){.kind = wire_u8(&w), .lsn = wire_u64(&w), .at = st->offset};
    out->data = p + SPOOL_RECORD_HEADER;
    out->len = len;
    if (crc32c(crc32c(st->seed, p, 4), p + 8, 9 + len) != crc)
        return STREAM_BAD;
    if (out->kind < SPOOL_MESSAGE || out->kind > SPOOL_COMMIT)
        return STREAM_BAD;
    st->start += SPOOL_RECORD_HEADER + len;
    st->have -= SPOOL_RECORD_HEADER + len;
    st->offset += (int64_t) (SPOOL_RECORD_HEADER + len);
    return STREAM_RECORD;
}
