/*
 * spool_fixture.h - a spool in a directory of its own, transactions that say who they are, and what
 * a reader must then return. Static, for the tests of the spool.
 */
#ifndef PGCUTOVER_TESTS_SPOOL_FIXTURE_H
#define PGCUTOVER_TESTS_SPOOL_FIXTURE_H

#include "base/alloc.h"
#include "base/clock.h"
#include "repl/spool_internal.h"
#include "sys/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static struct error err;
static const struct spool_options small = {.segment_bytes = 4096, .buffer_bytes = 512};
static const struct spool_options large = {.segment_bytes = 1 << 20, .buffer_bytes = 4096};

#define OK(call)                                                                                   \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s: %s", #call, err.message);                                                \
    } while (0)

static inline int setup(void **state)
{
    (void) state;
    snprintf(dir, sizeof dir, "/tmp/test_spool.XXXXXX");
    error_clear(&err);
    return mkdtemp(dir) ? 0 : -1;
}

static inline int teardown(void **state)
{
    (void) state;
    return spool_remove(dir, &err) ? 0 : -1;
}

static inline struct spool *open_spool(const struct spool_options *opt)
{
    struct spool *s = NULL;
    OK(spool_open_sized(&s, dir, 0, opt, &err));
    return s;
}

/* Transaction n commits at 1000 n, ends at 1000 n + 100; its messages say who they are. */
static inline bool put(struct spool *s, unsigned n, unsigned messages, size_t size)
{
    char *data = xcalloc(1, size);
    bool ok = spool_begin(s, n * 1000, &err);
    for (unsigned i = 0; ok && i < messages; i++) {
        snprintf(data, size, "%u/%u", n, i);
        ok = spool_append(s, n * 1000 - 500 + i % 400, data, size, &err);
    }
    ok = ok && spool_commit(s, n * 1000, n * 1000 + 100, &err);
    free(data);
    return ok;
}

static inline void expect_messages(struct spool_reader *r, unsigned n, unsigned messages,
                                   size_t size)
{
    char text[64];
    struct spool_record rec;

    for (unsigned i = 0; i < messages; i++) {
        snprintf(text, sizeof text, "%u/%u", n, i);
        do {
            enum spool_read got = spool_next(r, 0, &rec, &err);
            if (got != SPOOL_GOT)
                fail_msg("%s: result %d %s", text, got, err.message);
        } while (rec.kind == SPOOL_POSITION);
        assert_int_equal(rec.kind, SPOOL_MESSAGE);
        assert_int_equal(rec.len, size);
        assert_string_equal((const char *) rec.data, text);
        assert_true(rec.lsn == n * 1000 - 500 + i % 400);
    }
}

static inline void expect_position(struct spool_reader *r, lsn_t lsn)
{
    struct spool_record rec;
    assert_int_equal(spool_next(r, 0, &rec, &err), SPOOL_GOT);
    assert_int_equal(rec.kind, SPOOL_POSITION);
    assert_true(rec.lsn == lsn);
}

static inline void expect_empty(struct spool_reader *r)
{
    struct spool_record rec;
    assert_int_equal(spool_next(r, 0, &rec, &err), SPOOL_EMPTY);
}

static inline size_t count_segments(void)
{
    char **names;
    size_t n;
    OK(file_list(dir, &names, &n, &err));
    file_free_list(names);
    return n;
}

static inline char *last_segment(void)
{
    char **names;
    size_t n;
    OK(file_list(dir, &names, &n, &err));
    char *path = xstrfmt("%s/%s", dir, names[n - 1]);
    file_free_list(names);
    return path;
}

static inline off_t size_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

#endif
