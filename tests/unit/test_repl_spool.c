/* The spool in use: what is read is what was committed, in order, whoever reads, waits or trims
 * meanwhile. */
#include "spool_fixture.h"

static void test_write_and_read(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool *s = open_spool(&large);

    assert_true(spool_last_commit(s) == 0 && spool_end(s) == 0 && spool_synced(s) == 0);
    OK(spool_reader_open(s, 0, &r, &err));
    expect_empty(r);
    OK(put(s, 1, 3, 40));
    expect_messages(r, 1, 3, 40);
    expect_empty(r);
    OK(spool_position(s, 1500, &err));
    OK(spool_position(s, 1400, &err)); /* not news */
    expect_position(r, 1500);
    expect_empty(r);
    assert_true(spool_last_commit(s) == 1000 && spool_end(s) == 1500 && spool_synced(s) == 0);
    OK(spool_sync(s, &err));
    assert_true(spool_synced(s) == 1500);
    OK(put(s, 2, 1, 20000)); /* larger than the buffer */
    OK(put(s, 3, 0, 40));
    expect_messages(r, 2, 1, 20000);
    expect_empty(r);
    assert_true(spool_end(s) == 3100 && spool_synced(s) == 1500);
    spool_reader_close(r);
    spool_close(s);

    s = open_spool(&large);
    assert_true(spool_last_commit(s) == 3000 && spool_end(s) == 3100 && spool_synced(s) == 3100);
    OK(spool_reader_open(s, 1000, &r, &err));
    expect_position(r, 1500);
    expect_messages(r, 2, 1, 20000);
    expect_empty(r);
    spool_reader_close(r);
    spool_close(s);
}

static void test_open_transaction_is_not_seen(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool *s = open_spool(&small);
    char data[1000] = "";

    OK(put(s, 1, 2, 40));
    OK(spool_reader_open(s, 0, &r, &err));
    expect_messages(r, 1, 2, 40);
    OK(spool_begin(s, 2000, &err));
    for (int i = 0; i < 20; i++)
        OK(spool_append(s, 1900, data, sizeof data, &err));
    assert_true(count_segments() > 3);
    expect_empty(r);
    int64_t bytes = spool_bytes(s);
    spool_abandon(s);
    assert_true(spool_bytes(s) < bytes);
    assert_int_equal(count_segments(), 1);
    expect_empty(r);
    OK(put(s, 2, 30, 1000)); /* the same one again, whole, over several segments */
    expect_messages(r, 2, 30, 1000);
    expect_empty(r);
    spool_reader_close(r);
    spool_close(s);
}

static void test_order_is_kept(void **state)
{
    (void) state;
    struct spool *s = open_spool(&large);
    OK(put(s, 2, 1, 40));
    assert_false(put(s, 1, 1, 40));
    assert_int_equal(err.code, ERR_PROTOCOL);
    assert_false(put(s, 2, 1, 40));
    OK(spool_position(s, 5000, &err));
    assert_false(put(s, 4, 1, 40));
    OK(put(s, 5, 1, 40));
    spool_close(s);
}

static void test_trim(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool *s = open_spool(&small);

    for (unsigned n = 1; n <= 40; n++)
        OK(put(s, n, 4, 200));
    OK(put(s, 41, 40, 1000)); /* over many segments */
    OK(spool_sync(s, &err));
    size_t all = count_segments();
    int64_t bytes = spool_bytes(s);
    OK(spool_trim(s, 1, &err));
    assert_int_equal(count_segments(), all);
    OK(spool_reader_open(s, 20000, &r, &err));
    OK(spool_trim(s, 40001, &err)); /* the reader stands at 20 */
    expect_messages(r, 21, 4, 200);
    for (unsigned n = 22; n <= 40; n++)
        expect_messages(r, n, 4, 200);
    size_t kept = count_segments();
    assert_true(kept < all && kept > 10 && spool_bytes(s) < bytes);
    expect_messages(r, 41, 40, 1000);
    OK(spool_trim(s, 40001, &err)); /* segments with parts of 41 stay */
    expect_empty(r);
    spool_reader_close(r);
    OK(spool_reader_open(s, 40000, &r, &err));
    expect_messages(r, 41, 40, 1000);
    spool_reader_close(r);
    OK(spool_trim(s, 41000, &err));
    OK(spool_reader_open(s, 40000, &r, &err));
    spool_reader_close(r);
    assert_false(spool_reader_open(s, 10000, &r, &err)); /* would miss 11 */
    assert_int_equal(err.code, ERR_IO);
    OK(spool_trim(s, 41001, &err));
    assert_int_equal(count_segments(), 1);
    assert_true(spool_last_commit(s) == 41000 && spool_end(s) == 41100);
    spool_close(s);

    s = open_spool(&small); /* what it knew outlives what was trimmed */
    assert_true(spool_last_commit(s) == 41000 && spool_end(s) == 41100);
    assert_false(put(s, 41, 1, 10));
    OK(put(s, 42, 1, 10));
    OK(spool_reader_open(s, 41000, &r, &err));
    expect_messages(r, 42, 1, 10);
    spool_reader_close(r);
    OK(spool_reader_open(s, 0, &r, &err));
    expect_messages(r, 42, 1, 10);
    spool_reader_close(r);
    spool_close(s);
}

/* A transaction whose commit isn't durable yet keeps its beginning. */
static void test_trim_keeps_what_is_not_durable(void **state)
{
    (void) state;
    struct spool *s = open_spool(&small);
    OK(put(s, 1, 10, 1000));
    size_t all = count_segments();
    OK(put(s, 2, 1, 10));
    OK(spool_trim(s, 5000, &err));
    assert_int_equal(count_segments(), all);
    OK(spool_sync(s, &err));
    OK(spool_trim(s, 5000, &err));
    assert_int_equal(count_segments(), 1);
    spool_close(s);
}

static void test_reader_starts_anywhere(void **state)
{
    (void) state;
    struct spool *s = open_spool(&small);
    for (unsigned n = 1; n <= 60; n++)
        OK(put(s, n, n % 7 == 0 ? 20 : 2, n % 5 == 0 ? 900 : 30));
    for (unsigned after = 0; after <= 60; after++) {
        struct spool_reader *r;
        OK(spool_reader_open(s, after * 1000, &r, &err));
        for (unsigned n = after + 1; n <= 60; n++)
            expect_messages(r, n, n % 7 == 0 ? 20 : 2, n % 5 == 0 ? 900 : 30);
        expect_empty(r);
        spool_reader_close(r);
    }
    spool_close(s);
}

struct reading {
    struct spool *s;
    unsigned last;
    unsigned seen; /* transactions, by their last message */
    int64_t waited;
};

static void *read_all(void *arg)
{
    struct reading *rd = arg;
    struct spool_reader *r;
    struct spool_record rec;
    struct error e = {0};
    unsigned n = 0;
    unsigned i = 0;

    if (!spool_reader_open(rd->s, 0, &r, &e))
        return (void *) "open";
    while (rd->seen < rd->last) {
        char text[32];
        enum spool_read got = spool_next(r, 5000, &rec, &e);
        if (got != SPOOL_GOT)
            break;
        if (rec.kind != SPOOL_MESSAGE)
            continue;
        snprintf(text, sizeof text, "%u/%u", n + 1, i);
        if (strcmp(rec.data, text) != 0)
            break;
        if (++i == 3) {
            i = 0;
            rd->seen = ++n;
        }
    }
    spool_reader_close(r);
    return NULL;
}

static void test_concurrent_reader_and_trim(void **state)
{
    (void) state;
    pthread_t threads[2];
    struct spool *s = open_spool(&small);
    struct reading rd[2] = {{.s = s, .last = 3000}, {.s = s, .last = 3000}};

    for (int i = 0; i < 2; i++)
        OK(thread_start(&threads[i], "reader", read_all, &rd[i], &err));
    for (unsigned n = 1; n <= 3000; n++) {
        if (n % 50 == 0) {
            OK(spool_begin(s, n * 1000, &err));
            OK(spool_append(s, n * 1000 - 1, "lost", 5, &err));
            spool_abandon(s);
        }
        OK(put(s, n, 3, n % 100 == 0 ? 3000 : 60));
        if (n % 500 == 0)
            OK(spool_sync(s, &err));
        if (n % 20 == 0 && n > 200)
            OK(spool_trim(s, (n - 200) * 1000, &err));
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(rd[i].seen, 3000);
    }
    spool_close(s);
}

static void *commit_soon(void *arg)
{
    struct spool *s = arg;
    clock_sleep_ms(50);
    return put(s, 1, 1, 40) ? NULL : (void *) "failed";
}

static void test_reader_waits(void **state)
{
    (void) state;
    pthread_t thread;
    struct spool_reader *r;
    struct spool_record rec;
    struct spool *s = open_spool(&large);

    OK(spool_reader_open(s, 0, &r, &err));
    int64_t began = clock_us();
    assert_int_equal(spool_next(r, 30, &rec, &err), SPOOL_EMPTY);
    assert_true(clock_us() - began >= 29000);
    OK(thread_start(&thread, "writer", commit_soon, s, &err));
    began = clock_us();
    assert_int_equal(spool_next(r, 10000, &rec, &err), SPOOL_GOT);
    assert_true(clock_us() - began < 5000000);
    pthread_join(thread, NULL);
    spool_reader_close(r);
    spool_close(s);
}

/* A large record is read back whole, and the reader's memory shrinks again. */
static void test_large_record(void **state)
{
    (void) state;
    struct spool_reader *r;
    struct spool_record rec;
    size_t size = (size_t) 40 << 20;
    unsigned char *data = xmalloc(size);
    struct spool *s = open_spool(&large);

    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char) (i * 31 >> 3);
    OK(put(s, 1, 1, 40));
    OK(spool_begin(s, 2000, &err));
    OK(spool_append(s, 1999, data, size, &err));
    OK(spool_commit(s, 2000, 2100, &err));
    OK(put(s, 3, 1, 40));
    OK(spool_reader_open(s, 0, &r, &err));
    expect_messages(r, 1, 1, 40);
    do
        assert_int_equal(spool_next(r, 0, &rec, &err), SPOOL_GOT);
    while (rec.kind != SPOOL_MESSAGE);
    assert_true(rec.len == size);
    assert_memory_equal(rec.data, data, size);
    expect_messages(r, 3, 1, 40);
    spool_reader_close(r);
    spool_close(s);
    s = open_spool(&large);
    assert_true(spool_last_commit(s) == 3000);
    spool_close(s);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_transaction_is_not_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trim_keeps_what_is_not_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reader_starts_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_concurrent_reader_and_trim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reader_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_record, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
