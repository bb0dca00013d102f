/* The spool after a crash, on damaged files and on a full disk: nothing committed is lost, nothing
 * half is returned. */
#include "spool_fixture.h"

#include <errno.h>
#include <sys/mount.h>

/* Whatever byte the tail is torn at, what was committed before is there and the spool goes on. */
static void test_torn_tail_at_every_byte(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool *s = open_spool(&large);

    OK(put(s, 1, 3, 40));
    char *path = last_segment();
    off_t before = size_of(path);
    OK(put(s, 2, 3, 40));
    off_t after = size_of(path);
    spool_close(s);
    struct strbuf whole = {0};
    OK(file_read(path, &whole, 1 << 20, &err));
    for (off_t cut = before; cut <= after; cut++) {
        OK(file_replace(path, whole.data, (size_t) cut, 0600, &err));
        s = open_spool(&large);
        assert_true(spool_last_commit(s) == (cut == after ? 2000 : 1000));
        assert_true(size_of(path) == (cut == after ? after : before));
        OK(put(s, 3, 1, 40));
        OK(spool_reader_open(s, 0, &r, &err));
        expect_messages(r, 1, 3, 40);
        if (cut == after)
            expect_messages(r, 2, 3, 40);
        expect_messages(r, 3, 1, 40);
        expect_empty(r);
        spool_reader_close(r);
        spool_close(s);
    }
    strbuf_release(&whole);
    free(path);
}

/* The same with a flipped bit instead of an end, and with zeros after it. */
static void test_bad_bytes_in_the_tail(void **state)
{
    (void) state;
    struct spool *s = open_spool(&large);

    OK(put(s, 1, 3, 40));
    char *path = last_segment();
    off_t before = size_of(path);
    OK(put(s, 2, 3, 40));
    spool_close(s);
    struct strbuf whole = {0};
    OK(file_read(path, &whole, 1 << 20, &err));
    for (size_t at = (size_t) before; at < whole.len; at++) {
        whole.data[at] ^= 0x10;
        OK(file_replace(path, whole.data, whole.len, 0600, &err));
        whole.data[at] ^= 0x10;
        s = open_spool(&large);
        assert_true(spool_last_commit(s) == 1000);
        spool_close(s);
        assert_true(size_of(path) == before);
    }
    assert_int_equal(truncate(path, before + 5000), 0);
    s = open_spool(&large);
    assert_true(spool_end(s) == 1100);
    assert_true(size_of(path) == before);
    spool_close(s);
    strbuf_release(&whole);
    free(path);
}

/* A transaction over several segments whose end is missing: its segments go as well. */
static void test_torn_transaction_over_segments(void **state)
{
    (void) state;
    struct spool *s = open_spool(&small);
    OK(put(s, 1, 3, 40));
    size_t before = count_segments();
    OK(put(s, 2, 30, 1000));
    assert_true(count_segments() > before + 5);
    spool_close(s);
    char *path = last_segment();
    assert_int_equal(truncate(path, size_of(path) - 1), 0);
    free(path);
    s = open_spool(&small);
    assert_true(spool_last_commit(s) == 1000);
    assert_int_equal(count_segments(), before);
    OK(put(s, 2, 30, 1000));
    spool_close(s);
    s = open_spool(&small);
    assert_true(spool_last_commit(s) == 2000);
    spool_close(s);
}

static void test_segment_torn_at_birth(void **state)
{
    (void) state;
    struct spool *s = open_spool(&small);
    spool_close(s);
    char *path = last_segment();
    for (off_t size = 0; size < (off_t) SPOOL_SEGMENT_HEADER; size += 11) {
        assert_int_equal(truncate(path, size), 0);
        s = open_spool(&small);
        assert_true(spool_end(s) == 0);
        spool_close(s);
    }
    s = open_spool(&small);
    for (unsigned n = 1; count_segments() < 3; n++)
        OK(put(s, n, 4, 200));
    lsn_t last = spool_last_commit(s);
    spool_close(s);
    free(path);
    path = last_segment();
    assert_int_equal(truncate(path, 20), 0);
    s = open_spool(&small);
    assert_true(spool_last_commit(s) < last && spool_last_commit(s) > 0);
    assert_int_equal(count_segments(), 2);
    spool_close(s);
    free(path);
}

/* Damage that no crash leaves behind is an error, not a shorter spool. */
static void test_damage_in_older_segments(void **state)
{
    (void) state;
    struct spool *s = open_spool(&small);
    for (unsigned n = 1; n <= 40; n++)
        OK(put(s, n, 4, 200));
    assert_true(count_segments() > 4);
    char *path = spool_segment_path(s, 2);
    char *away = xstrfmt("%s/away", dir);
    spool_close(s);
    struct strbuf whole = {0};
    OK(file_read(path, &whole, 1 << 20, &err));

    static const size_t places[] = {0, 20, SPOOL_SEGMENT_HEADER + 3, 1000};
    for (size_t i = 0; i < 4; i++) {
        whole.data[places[i]] ^= 1;
        OK(file_replace(path, whole.data, whole.len, 0600, &err));
        whole.data[places[i]] ^= 1;
        assert_false(spool_open_sized(&s, dir, 0, &small, &err));
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.message, "damaged"));
    }
    OK(file_replace(path, whole.data, whole.len - 1, 0600, &err));
    assert_false(spool_open_sized(&s, dir, 0, &small, &err));
    OK(file_replace(path, whole.data, SPOOL_SEGMENT_HEADER, 0600, &err));
    assert_false(spool_open_sized(&s, dir, 0, &small, &err)); /* whole records, but not all */
    assert_int_equal(rename(path, away), 0);
    assert_false(spool_open_sized(&s, dir, 0, &small, &err));
    assert_non_null(strstr(err.message, "missing"));
    OK(file_replace(path, whole.data, whole.len, 0600, &err));
    s = open_spool(&small);
    assert_true(spool_last_commit(s) == 40000);
    spool_close(s);
    strbuf_release(&whole);
    free(path);
    free(away);
}

static void test_damage_under_a_reader(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool_record rec;
    struct spool *s = open_spool(&large);

    OK(put(s, 1, 2, 4000));
    OK(put(s, 2, 2, 4000));
    char *path = last_segment();
    int fd = open(path, O_RDWR);
    assert_true(pwrite(fd, "?", 1, 9000) == 1);
    close(fd);
    OK(spool_reader_open(s, 0, &r, &err));
    expect_messages(r, 1, 2, 4000);
    assert_int_equal(spool_next(r, 0, &rec, &err), SPOOL_ERROR);
    assert_int_equal(err.code, ERR_IO);
    spool_reader_close(r);
    spool_close(s);
    free(path);
}

static void test_limit(void **state)
{
    (void) state;
    struct spool *s = NULL;
    struct spool_reader *r;
    unsigned n = 1;

    OK(spool_open_sized(&s, dir, 50000, &small, &err));
    while (put(s, n, 5, 500))
        n++;
    assert_int_equal(err.code, ERR_FULL);
    assert_non_null(strstr(err.hint, dir));
    assert_non_null(strstr(err.hint, "spool_limit"));
    assert_true(spool_last_commit(s) == (n - 1) * 1000);
    assert_true(spool_bytes(s) <= 50000);
    int64_t used;
    OK(file_tree_size(dir, &used, &err));
    assert_true(used == spool_bytes(s));
    OK(spool_reader_open(s, 0, &r, &err));
    for (unsigned i = 1; i < n; i++)
        expect_messages(r, i, 5, 500);
    expect_empty(r);
    OK(spool_sync(s, &err));
    OK(spool_trim(s, 10000, &err));
    OK(put(s, n, 5, 500)); /* room again */
    expect_messages(r, n, 5, 500);
    spool_reader_close(r);
    spool_close(s);
}

/* A full disk: everything before stays, the tail is cut off, and it goes on once there's room. */
static void test_disk_full(void **state)
{
    (void) state;
    struct spool_reader *r;
    unsigned n = 1;

    if (geteuid() != 0 || mount("none", dir, "tmpfs", 0, "size=256k") != 0) {
        print_message("no tmpfs: %s\n", strerror(errno));
        skip();
    }
    struct spool *s = open_spool(&small);
    while (put(s, n, 5, 700))
        n++;
    assert_int_equal(err.code, ERR_FULL);
    assert_non_null(strstr(err.hint, dir));
    assert_true(n > 20 && spool_last_commit(s) == (n - 1) * 1000);
    OK(spool_sync(s, &err));
    OK(spool_reader_open(s, 0, &r, &err));
    for (unsigned i = 1; i < n; i++)
        expect_messages(r, i, 5, 700);
    expect_empty(r);
    OK(spool_trim(s, (n - 1) * 1000, &err));
    OK(put(s, n, 5, 700));
    expect_messages(r, n, 5, 700);
    spool_reader_close(r);
    spool_close(s);
    s = open_spool(&small);
    assert_true(spool_last_commit(s) == n * 1000);
    spool_close(s);
    assert_int_equal(umount(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_torn_tail_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_bytes_in_the_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_transaction_over_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_segment_torn_at_birth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_in_older_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_under_a_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
