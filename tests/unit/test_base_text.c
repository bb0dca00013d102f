/* strbuf, human, lsn, clock, error, alloc: what turns values into text and back. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/human.h"
#include "base/lsn.h"
#include "base/strbuf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

static void strbuf_grows_and_is_reusable(void **state)
{
    struct strbuf sb = {0};
    (void) state;

    assert_string_equal(strbuf_cstr(&sb), "");
    strbuf_addstr(&sb, "a");
    strbuf_addch(&sb, 'b');
    strbuf_add(&sb, "c\0d", 3);
    assert_int_equal(sb.len, 5);
    assert_memory_equal(sb.data, "abc\0d", 6);
    strbuf_reset(&sb);
    assert_string_equal(strbuf_cstr(&sb), "");
    for (int i = 0; i < 10000; i++)
        strbuf_addf(&sb, "%04d", i);
    assert_int_equal(sb.len, 40000);
    assert_string_equal(sb.data + 39996, "9999");

    char *taken = strbuf_take(&sb);
    assert_int_equal(strlen(taken), 40000);
    assert_null(sb.data);
    free(taken);
    taken = strbuf_take(&sb);
    assert_string_equal(taken, "");
    free(taken);
    strbuf_release(&sb);
}

static void strbuf_addf_fills_to_the_last_byte(void **state)
{
    (void) state;
    /* lengths on both sides of the first capacity */
    for (int len = 60; len < 70; len++) {
        struct strbuf sb = {0};
        strbuf_addf(&sb, "%*s", len, "x");
        assert_int_equal(sb.len, len);
        assert_int_equal(strlen(sb.data), len);
        strbuf_release(&sb);
    }
    char *s = xstrfmt("%s-%d", "slot", 7);
    assert_string_equal(s, "slot-7");
    free(s);
}

static void vec_add_zeroes_new_elements(void **state)
{
    struct pair {
        int a, b;
    } *items = NULL;
    size_t n = 0;
    size_t cap = 0;
    (void) state;

    for (int i = 0; i < 100; i++) {
        struct pair *p = VEC_ADD(items, n, cap);
        assert_int_equal(p->a, 0);
        assert_int_equal(p->b, 0);
        p->a = i;
        p->b = -1;
    }
    assert_int_equal(n, 100);
    assert_int_equal(items[99].a, 99);
    free(items);
}

static void lsn_goes_both_ways(void **state)
{
    static const char *const bad[] = {"",     "0",           "/0",  "0/",          "0/15D8 ",
                                      " 0/1", "0/123456789", "g/0", "123456789/0", "0//1"};
    char buf[LSN_SIZE];
    lsn_t lsn = 0;
    (void) state;

    assert_true(lsn_parse("0/15D8", &lsn));
    assert_int_equal(lsn, 0x15D8);
    assert_string_equal(lsn_str(buf, lsn), "0/15D8");
    assert_true(lsn_parse("ffffffff/FFFFFFFF", &lsn));
    assert_true(lsn == UINT64_MAX);
    assert_string_equal(lsn_str(buf, lsn), "FFFFFFFF/FFFFFFFF");
    assert_true(lsn_parse("1/0", &lsn));
    assert_true(lsn == UINT64_C(1) << 32);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(lsn_parse(bad[i], &lsn));
}

static void nearest_name_or_none(void **state)
{
    static const char *const names[] = {"jobs", "method", "conninfo", "create", "directory", NULL};
    (void) state;

    assert_string_equal(human_nearest("coninfo", names), "conninfo");
    assert_string_equal(human_nearest("conninof", names), "conninfo");
    assert_string_equal(human_nearest("metod", names), "method");
    assert_string_equal(human_nearest("jobs", names), "jobs");
    assert_null(human_nearest("tls", names));
    assert_null(human_nearest("j", names));
    assert_null(human_nearest("jobs", (const char *const[]){NULL}));
}

static void numbers_for_people(void **state)
{
    char buf[HUMAN_SIZE];
    (void) state;

    assert_string_equal(human_bytes(buf, 0), "0 B");
    assert_string_equal(human_bytes(buf, 999), "999 B");
    assert_string_equal(human_bytes(buf, 1000), "1.0 kB");
    assert_string_equal(human_bytes(buf, 1400000000), "1.4 GB");
    assert_string_equal(human_bytes(buf, 999999), "1.0 MB");
    assert_string_equal(human_bytes(buf, INT64_MAX), "9.2 EB");
    assert_string_equal(human_count(buf, 0), "0");
    assert_string_equal(human_count(buf, 999), "999");
    assert_string_equal(human_count(buf, 1234567), "1,234,567");
    assert_string_equal(human_count(buf, -123456), "-123,456");
    assert_string_equal(human_count(buf, INT64_MIN), "-9,223,372,036,854,775,808");
}

static void assert_human(int64_t us, const char *expected)
{
    char buf[CLOCK_HUMAN_SIZE];
    clock_human(buf, us);
    assert_string_equal(buf, expected);
}

static void durations_for_people(void **state)
{
    (void) state;
    assert_human(0, "0 ms");
    assert_human(400, "0.4 ms");
    assert_human(13200, "13 ms");
    assert_human(4200000, "4.2 s");
    assert_human(59960000, "1m 00s");
    assert_human(187000000, "3m 07s");
    assert_human(3599700000, "1h 00m");
    assert_human(INT64_C(3720000000), "1h 02m");
    assert_human(-4200000, "-4.2 s");
}

static void assert_iso(int64_t us, const char *expected)
{
    char buf[CLOCK_ISO_SIZE];
    clock_iso(buf, us);
    assert_string_equal(buf, expected);
}

static void wall_time_in_utc(void **state)
{
    (void) state;
    setenv("TZ", "America/New_York", 1);
    assert_iso(0, "1970-01-01T00:00:00.000Z");
    assert_iso(INT64_C(1795140847123456), "2026-11-20T02:14:07.123Z");
    assert_iso(-1000, "1969-12-31T23:59:59.999Z");
}

static void deadlines(void **state)
{
    (void) state;
    assert_false(clock_passed(CLOCK_NONE));
    assert_false(clock_passed(clock_in_ms(60000)));
    assert_true(clock_passed(clock_in_ms(-1)));
    assert_true(clock_in_ms(INT64_MAX) == CLOCK_NONE);
    assert_int_equal(clock_poll_ms(CLOCK_NONE), -1);
    assert_int_equal(clock_poll_ms(clock_in_ms(-5)), 0);
    assert_int_equal(clock_poll_ms(clock_us() + 86400 * INT64_C(1000000)), 3600000);
    assert_in_range(clock_poll_ms(clock_in_ms(5000)), 4000, 5000);
    /* rounded up: a poll that wakes a fraction early would spin */
    assert_int_equal(clock_poll_ms(clock_us() + 900), 1);
}

static void error_is_filled_replaced_and_pushed(void **state)
{
    struct error err = {0};
    (void) state;

    assert_false(error_set(&err, ERR_CONFLICT, "key %d", 7));
    assert_false(error_detail(&err, "detail"));
    assert_false(error_hint(&err, "hint"));
    assert_false(error_push(&err, "table %s", "orders"));
    assert_false(error_push(&err, "step replay"));
    assert_string_equal(err.context, "step replay: table orders");
    assert_string_equal(err.message, "key 7");

    /* its own fields as arguments */
    error_set(&err, ERR_NOGO, "no-go: %s (%s)", err.message, err.detail);
    assert_string_equal(err.message, "no-go: key 7 (detail)");
    assert_string_equal(err.detail, "");
    assert_string_equal(err.context, "");
    assert_int_equal(err.code, ERR_NOGO);
    error_clear(&err);
    assert_int_equal(err.code, ERR_NONE);
}

static void error_from_errno(void **state)
{
    struct error err = {0};
    (void) state;

    assert_false(error_set_errno(&err, ENOENT, "could not open \"%s\"", "x"));
    assert_string_equal(err.message, "could not open \"x\": No such file or directory");
    assert_int_equal(err.code, ERR_IO);
    error_set_errno(&err, ENOSPC, "write");
    assert_int_equal(err.code, ERR_FULL);
    error_set_errno(&err, EDQUOT, "write");
    assert_int_equal(err.code, ERR_FULL);
}

static void error_fields_are_cut_between_characters(void **state)
{
    struct error err = {0};
    struct strbuf sb = {0};
    (void) state;

    strbuf_addch(&sb, 'x');
    while (sb.len < 6000)
        strbuf_addstr(&sb, "\xc3\xa9");
    error_set(&err, ERR_IO, "%s", sb.data);
    error_detail(&err, "%s", sb.data);
    error_hint(&err, "%s", sb.data);
    for (int i = 0; i < 600; i++)
        error_push(&err, "%s", "\xc3\xa9");
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_int_equal(strlen(err.detail), sizeof err.detail - 1);
    assert_true(strlen(err.context) < sizeof err.context);

    strbuf_reset(&sb);
    while (sb.len < 6000)
        strbuf_addstr(&sb, "\xc3\xa9");
    error_set(&err, ERR_IO, "%s", sb.data);
    assert_int_equal(strlen(err.message), sizeof err.message - 2);
    strbuf_release(&sb);
}

static void error_codes_have_names_and_statuses(void **state)
{
    (void) state;
    assert_string_equal(error_code_name(ERR_NOGO), "no-go");
    assert_int_equal(error_exit_status(ERR_NONE), 0);
    assert_int_equal(error_exit_status(ERR_SQL), 1);
    assert_int_equal(error_exit_status(ERR_USAGE), 2);
    assert_int_equal(error_exit_status(ERR_BUDGET), 3);
    assert_int_equal(error_exit_status(ERR_STOPPED), 4);
    assert_int_equal(error_exit_status(ERR_OPERATOR), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strbuf_grows_and_is_reusable),
        cmocka_unit_test(strbuf_addf_fills_to_the_last_byte),
        cmocka_unit_test(vec_add_zeroes_new_elements),
        cmocka_unit_test(lsn_goes_both_ways),
        cmocka_unit_test(nearest_name_or_none),
        cmocka_unit_test(numbers_for_people),
        cmocka_unit_test(durations_for_people),
        cmocka_unit_test(wall_time_in_utc),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(error_is_filled_replaced_and_pushed),
        cmocka_unit_test(error_from_errno),
        cmocka_unit_test(error_fields_are_cut_between_characters),
        cmocka_unit_test(error_codes_have_names_and_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
