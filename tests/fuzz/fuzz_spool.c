/*
 * A segment file of any bytes is opened and read. Never a crash, never a record whose checksum is
 * wrong, and what is left after the opening opens again just so. The first byte of the input
 * chooses: the rest is the file as it is, or the file's records without lengths and checksums,
 * which are put right so that the fuzzer gets past them (the last one's is put wrong for some).
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=c11 -D_GNU_SOURCE -iquote include \
 *         tests/fuzz/fuzz_spool.c src/repl/spool*.c src/base/?*.c src/sys/?*.c -pthread -o
 * /tmp/fuzz_spool
 */
#include "base/wire.h"
#include "repl/spool_internal.h"
#include "sys/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct spool_options sizes = {.segment_bytes = 4096, .buffer_bytes = 256};
static char dir[64];
static char path[128];

static void make_dir(void)
{
    struct error err = {0};
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/dev/shm/fuzz_spool.%d", (int) getpid());
        snprintf(path, sizeof path, "%s/0000000000000001.spool", dir);
    }
    if (!file_remove_tree(dir, &err) || !file_make_dir(dir, &err))
        abort();
}

/* kind, lsn and a length byte, then that many bytes, until the input ends */
static void add_records(struct strbuf *file, const uint8_t *data, size_t size, bool spoil)
{
    struct wire w = wire_over(data, size);
    struct spool_segment first = {.number = 1, .last_commit = wire_u8(&w), .end = wire_u8(&w)};
    unsigned char segment[SPOOL_SEGMENT_HEADER];
    unsigned char header[SPOOL_RECORD_HEADER];

    first.open_commit = wire_u8(&w) & 1;
    spool_put_segment(segment, &first);
    strbuf_add(file, segment, sizeof segment);
    while (wire_left(&w) > 0) {
        uint8_t kind = wire_u8(&w) % 6;
        lsn_t lsn = wire_u16(&w);
        size_t len = wire_u8(&w);
        if (len > wire_left(&w))
            len = wire_left(&w);
        const unsigned char *payload = wire_bytes(&w, len);
        spool_put_header(header, spool_seed(1), kind, lsn, payload, len);
        if (spoil && wire_left(&w) == 0)
            header[5] ^= 0x40;
        strbuf_add(file, header, sizeof header);
        strbuf_add(file, payload ? payload : (const unsigned char *) "", len);
    }
}

/* Every message returned must stand in the file behind a header with the right checksum. */
static void check_record(const struct strbuf *file, const struct spool_record *rec)
{
    unsigned char header[SPOOL_RECORD_HEADER];
    if (rec->kind == SPOOL_POSITION)
        return;
    spool_put_header(header, spool_seed(1), SPOOL_MESSAGE, rec->lsn, rec->data, rec->len);
    const char *at = memmem(file->data, file->len, header, sizeof header);
    while (at) {
        size_t left = file->len - (size_t) (at - file->data) - sizeof header;
        if (left >= rec->len && memcmp(at + sizeof header, rec->data, rec->len) == 0)
            return;
        at = memmem(at + 1, left + sizeof header - 1, header, sizeof header);
    }
    abort();
}

static bool read_all(const struct strbuf *file, lsn_t *end)
{
    struct spool *s = NULL;
    struct spool_reader *r = NULL;
    struct spool_record rec;
    struct error err = {0};
    enum spool_read got;

    if (!spool_open_sized(&s, dir, 0, &sizes, &err))
        return false;
    if (!spool_reader_open(s, 0, &r, &err))
        abort();
    while ((got = spool_next(r, 0, &rec, &err)) == SPOOL_GOT)
        check_record(file, &rec);
    if (got != SPOOL_EMPTY)
        abort();
    *end = spool_end(s);
    spool_reader_close(r);
    spool_close(s);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct strbuf file = {0};
    lsn_t first;
    lsn_t second;

    if (size < 1)
        return 0;
    make_dir();
    if (data[0] & 1)
        add_records(&file, data + 1, size - 1, (data[0] & 2) != 0);
    else
        strbuf_add(&file, data + 1, size - 1);
    FILE *f = fopen(path, "w");
    if (!f || fwrite(strbuf_cstr(&file), 1, file.len, f) != file.len || fclose(f) != 0)
        abort();
    if (read_all(&file, &first) && (!read_all(&file, &second) || first != second))
        abort();
    strbuf_release(&file);
    return 0;
}
