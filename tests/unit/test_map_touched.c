/* Sets of touched keys: what goes in comes out, once, oldest first; memory stays bounded. */
#include "map/touched.h"

#include "base/alloc.h"
#include "sys/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void put(struct touched *t, size_t table, const char *text)
{
    int len = (int) strlen(text);
    touched_add(t, table, 1, &text, &len);
}

static bool has(struct touched *t, size_t table, const char *text)
{
    int len = (int) strlen(text);
    return touched_has(t, table, 1, &text, &len);
}

static void a_key_counts_once(void **state)
{
    (void) state;
    struct touched *t = touched_new(2, 100);
    put(t, 0, "1");
    put(t, 0, "1");
    put(t, 1, "1");
    put(t, 0, "2");
    assert_int_equal(touched_count(t), 3);
    assert_int_equal(touched_count_table(t, 0), 2);
    assert_true(has(t, 0, "1"));
    assert_false(has(t, 0, "3"));
    assert_false(has(t, 1, "2"));
    touched_free(t);
    touched_free(NULL);
}

static void columns_of_a_key_do_not_run_together(void **state)
{
    (void) state;
    struct touched *t = touched_new(1, 100);
    const char *a[] = {"ab", "c"}, *b[] = {"a", "bc"}, *c[] = {"", "abc"}, *d[] = {"a\0b", "c"};
    int la[] = {2, 1}, lb[] = {1, 2}, lc[] = {0, 3}, ld[] = {3, 1};
    touched_add(t, 0, 2, a, la);
    touched_add(t, 0, 2, b, lb);
    touched_add(t, 0, 2, c, lc);
    touched_add(t, 0, 2, d, ld);
    assert_int_equal(touched_count(t), 4);
    struct touched_batch batch = {0};
    touched_take(t, 0, 3, &batch);
    assert_int_equal(batch.n, 3);
    assert_int_equal(batch.nkey, 2);
    assert_string_equal(batch.values[0], "ab");
    assert_string_equal(batch.values[1], "c");
    assert_string_equal(batch.values[3], "bc");
    assert_int_equal(batch.lens[4], 0);
    assert_false(touched_has(t, 0, 2, a, la));
    assert_true(touched_has(t, 0, 2, d, ld));
    touched_batch_release(&batch);
    touched_take(t, 0, 10, &batch);
    assert_int_equal(batch.n, 1);
    assert_int_equal(batch.lens[0], 3);
    assert_memory_equal(batch.values[0], "a\0b", 4);
    touched_batch_release(&batch);
    touched_free(t);
}

static void oldest_go_first_and_one_put_back_waits(void **state)
{
    (void) state;
    struct touched *t = touched_new(1, 100);
    struct touched_batch batch = {0};
    put(t, 0, "a");
    put(t, 0, "b");
    put(t, 0, "c");
    touched_take(t, 0, 2, &batch);
    assert_string_equal(batch.values[0], "a");
    assert_string_equal(batch.values[1], "b");
    touched_put_back(t, 0, &batch, 0);
    touched_batch_release(&batch);
    touched_take(t, 0, 10, &batch);
    assert_int_equal(batch.n, 2);
    assert_string_equal(batch.values[0], "c");
    assert_string_equal(batch.values[1], "a");
    touched_batch_release(&batch);
    touched_take(t, 0, 10, &batch);
    assert_int_equal(batch.n, 0);
    touched_batch_release(&batch);
    touched_free(t);
}

static void a_copy_leaves_all_in(void **state)
{
    (void) state;
    struct touched *t = touched_new(1, 100);
    struct touched_batch batch = {0};
    put(t, 0, "a");
    put(t, 0, "b");
    touched_copy(t, 0, &batch);
    assert_int_equal(batch.n, 2);
    assert_int_equal(touched_count(t), 2);
    touched_batch_release(&batch);
    touched_free(t);
}

/* Against a plain array of flags, with enough taking in between that slots shift and the ring
 * turns. */
static void holds_exactly_what_was_added(void **state)
{
    (void) state;
    enum { N = 5000 };
    struct touched *t = touched_new(1, N);
    static bool in[N];
    char text[16];
    unsigned seed = 12345;
    size_t count = 0;
    memset(in, 0, sizeof in);
    for (int step = 0; step < 40000; step++) {
        seed = seed * 1103515245u + 12345u;
        unsigned i = (seed >> 8) % N;
        if (seed % 5 == 0) {
            struct touched_batch batch = {0};
            touched_take(t, 0, seed % 7, &batch);
            for (size_t k = 0; k < batch.n; k++) {
                long key = strtol(batch.values[k], NULL, 10);
                assert_true(in[key]);
                in[key] = false;
                count--;
            }
            touched_batch_release(&batch);
        } else {
            snprintf(text, sizeof text, "%u", i);
            put(t, 0, text);
            count += !in[i];
            in[i] = true;
        }
        assert_int_equal(touched_count(t), count);
    }
    for (unsigned i = 0; i < N; i++) {
        snprintf(text, sizeof text, "%u", i);
        assert_int_equal(has(t, 0, text), in[i]);
    }
    assert_true(count > 100);
    touched_free(t);
}

static void past_the_bound_the_fullest_table_is_compared_whole(void **state)
{
    (void) state;
    struct touched *t = touched_new(3, 10);
    char text[16];
    put(t, 0, "small");
    for (int i = 0; i < 9; i++) {
        snprintf(text, sizeof text, "%d", i);
        put(t, 1, text);
    }
    assert_int_equal(touched_whole_count(t), 0);
    put(t, 2, "one too many");
    assert_int_equal(touched_whole_count(t), 1);
    assert_true(touched_whole(t, 1, false));
    assert_int_equal(touched_count_table(t, 1), 0);
    assert_int_equal(touched_count(t), 2);
    assert_true(has(t, 1, "anything: all of it counts as touched"));
    put(t, 1, "ignored");
    assert_int_equal(touched_count(t), 2);
    assert_true(touched_whole(t, 1, true));
    assert_false(touched_whole(t, 1, false));
    put(t, 1, "counts again");
    assert_int_equal(touched_count(t), 3);
    touched_free(t);
}

static void bytes_are_bounded_as_well(void **state)
{
    (void) state;
    struct touched *t = touched_new(1, 10);
    char *big = xcalloc(1, 2000);
    memset(big, 'x', 1999);
    put(t, 0, big);
    assert_true(touched_whole(t, 0, false));
    assert_int_equal(touched_count(t), 0);
    free(big);
    touched_free(t);
}

static void a_whole_table_and_clear(void **state)
{
    (void) state;
    struct touched *t = touched_new(2, 10);
    put(t, 0, "a");
    put(t, 1, "b");
    touched_add_whole(t, 0);
    touched_add_whole(t, 0);
    assert_int_equal(touched_whole_count(t), 1);
    assert_int_equal(touched_count(t), 1);
    touched_clear(t);
    assert_int_equal(touched_whole_count(t), 0);
    assert_int_equal(touched_count(t), 0);
    assert_false(has(t, 1, "b"));
    touched_free(t);
}

static void all_moves_from_one_set_to_another(void **state)
{
    (void) state;
    struct touched *a = touched_new(3, 10), *b = touched_new(3, 10);
    struct touched_batch batch;
    put(a, 0, "x");
    put(a, 0, "y");
    put(a, 1, "z");
    touched_add_whole(a, 2);
    put(b, 0, "y");
    put(b, 0, "old");
    touched_move(a, b);
    assert_int_equal(touched_count(a), 0);
    assert_int_equal(touched_whole_count(a), 0);
    assert_false(has(a, 0, "x"));
    assert_int_equal(touched_count_table(b, 0), 3);
    assert_int_equal(touched_count(b), 4);
    assert_true(touched_whole(b, 2, false));
    assert_true(has(b, 0, "x") && has(b, 1, "z"));
    touched_take(b, 0, 1, &batch);
    assert_string_equal(batch.values[0], "y");
    touched_batch_release(&batch);
    put(a, 0, "again"); /* an emptied set goes on */
    touched_add_whole(a, 1);
    put(a, 2, "w");
    touched_move(a, b);
    assert_true(has(b, 0, "again"));
    assert_true(touched_whole(b, 1, false));
    assert_int_equal(touched_count_table(b, 1), 0);
    assert_int_equal(touched_whole_count(b), 2);
    touched_free(a);
    touched_free(b);
}

struct adder {
    struct touched *t;
    int from;
};

static void *add_thousand(void *arg)
{
    const struct adder *a = arg;
    char text[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof text, "%d", a->from + i);
        put(a->t, 0, text);
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    (void) state;
    struct touched *t = touched_new(1, 100000);
    pthread_t threads[4];
    struct adder adders[4];
    struct error err = {0};
    size_t taken = 0;
    for (int i = 0; i < 4; i++) {
        adders[i] = (struct adder){t, i * 1000};
        assert_true(thread_start(&threads[i], "adder", add_thousand, &adders[i], &err));
    }
    while (taken < 1000) {
        struct touched_batch batch = {0};
        touched_take(t, 0, 50, &batch);
        taken += batch.n;
        touched_batch_release(&batch);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(taken + touched_count(t), 4000);
    touched_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_counts_once),
        cmocka_unit_test(columns_of_a_key_do_not_run_together),
        cmocka_unit_test(oldest_go_first_and_one_put_back_waits),
        cmocka_unit_test(a_copy_leaves_all_in),
        cmocka_unit_test(holds_exactly_what_was_added),
        cmocka_unit_test(past_the_bound_the_fullest_table_is_compared_whole),
        cmocka_unit_test(bytes_are_bounded_as_well),
        cmocka_unit_test(a_whole_table_and_clear),
        cmocka_unit_test(all_moves_from_one_set_to_another),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
