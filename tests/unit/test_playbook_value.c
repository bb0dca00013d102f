/* The text of one value to what it means, and the key table that says how. */
#include "playbook/playbook_internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BAD INT64_MIN

static int64_t parse(const char *kind, const char *key, const char *text)
{
    const struct playbook_key *k = playbook_find_key(kind, key);
    struct strbuf why = {0};
    int64_t num = 0;

    assert_non_null(k);
    bool ok = playbook_value_parse(k, text, &num, &why);
    assert_true(ok == (why.len == 0));
    strbuf_release(&why);
    return ok ? num : BAD;
}

static void says(const char *kind, const char *key, const char *text, const char *expected)
{
    struct strbuf why = {0};
    int64_t num;

    assert_false(playbook_value_parse(playbook_find_key(kind, key), text, &num, &why));
    assert_string_equal(strbuf_cstr(&why), expected);
    strbuf_release(&why);
}

static void durations(void **state)
{
    (void) state;
    assert_int_equal(parse("thresholds", "clone", "500ms"), 500000);
    assert_int_equal(parse("thresholds", "clone", "2s"), 2000000);
    assert_int_equal(parse("thresholds", "clone", "10m"), INT64_C(600000000));
    assert_int_equal(parse("thresholds", "clone", "2 h"), INT64_C(7200000000));
    assert_int_equal(parse("thresholds", "clone", "7d"), INT64_C(604800000000));
    assert_int_equal(parse("thresholds", "clone", "0"), 0);
    const char *const bad[] = {
        "", "s", "2", "2x", "-1s", "1.5s", "2s 3s", "s2", "99999999999999d", "1e3s"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse("thresholds", "clone", bad[i]), BAD);
}

static void sizes(void **state)
{
    (void) state;
    assert_int_equal(parse("thresholds", "lag", "4096"), 4096);
    assert_int_equal(parse("thresholds", "lag", "64kB"), 65536);
    assert_int_equal(parse("thresholds", "lag", "64MB"), 67108864);
    assert_int_equal(parse("thresholds", "lag", "200GB"), INT64_C(214748364800));
    assert_int_equal(parse("thresholds", "lag", "8388607TB"), INT64_C(8388607) << 40);
    assert_int_equal(parse("thresholds", "lag", "8388608TB"), BAD);
    assert_int_equal(parse("thresholds", "lag", "9223372036854775807"), INT64_MAX);
    assert_int_equal(parse("thresholds", "lag", "9223372036854775808"), BAD);
    assert_int_equal(parse("thresholds", "lag", "4M"), BAD);
}

static void numbers_and_their_ranges(void **state)
{
    (void) state;
    assert_int_equal(parse("clone", "jobs", "64"), 64);
    assert_int_equal(parse("clone", "jobs", "65"), BAD);
    assert_int_equal(parse("clone", "jobs", "0"), BAD);
    assert_int_equal(parse("clone", "jobs", "-1"), BAD);
    assert_int_equal(parse("clone", "jobs", "4x"), BAD);
    assert_int_equal(parse("migrations", "sequence_gap", "1000000000000"), INT64_C(1000000000000));
    assert_int_equal(parse("thresholds", "write_pause", "50ms"), 50000);
    assert_int_equal(parse("thresholds", "write_pause", "49ms"), BAD);
    assert_int_equal(parse("thresholds", "write_pause", "61m"), BAD);
    assert_int_equal(parse("replay", "batch_bytes", "257MB"), BAD);
    says("clone", "jobs", "many", "is not a whole number, such as 2");
    says("thresholds", "write_pause", "2 seconds", "is not a duration, such as 2s");
    says("thresholds", "write_pause", "2h", "is out of range: at least 50ms, at most 1h");
    says("capture", "spool_limit", "1kB", "is out of range: at least 1MB");
}

static void words(void **state)
{
    (void) state;
    assert_int_equal(parse("clone", "keep_archive", "yes"), 1);
    assert_int_equal(parse("clone", "keep_archive", "Off"), 0);
    says("clone", "keep_archive", "maybe", "is not yes or no");
    assert_int_equal(parse("capture", "no_primary_key", "fail"), 0);
    says("capture", "no_primary_key", "fai", "is not one of full, fail");
    says("fence", "mode", "lock", "is not lock+trigger");
    says("cutover", "procedure", "migrate-last",
         "is not available in this version, which has only online");
    assert_int_equal(parse("check", "when", "before-hold,\n after-open"), 0);
    says("check", "when", "before-hold, before-flip",
         "is not a list of before-hold, before-open, after-open");
    says("map", "key", "a,,b", "has an empty item; write it like id, created_at");
}

static void names_windows_and_connections(void **state)
{
    (void) state;
    assert_int_equal(parse("cutover", "name", "shop-v42_b"), 0);
    assert_int_equal(parse("cutover", "name", "a234567890123456789012345678901234567890"), 0);
    assert_int_equal(parse("cutover", "name", "a2345678901234567890123456789012345678901"), BAD);
    assert_int_equal(parse("cutover", "name", "Shop"), BAD);
    assert_int_equal(parse("cutover", "name", "a/b"), BAD);
    assert_int_equal(parse("gate", "window", "02:00-04:00"), 0);
    assert_int_equal(parse("gate", "window", "22:30-04:00"), 0);
    const char *const bad[] = {"",
                               "2:00-4:00",
                               "24:00-01:00",
                               "02:60-03:00",
                               "02:00-02:00",
                               "02:00-04:00x",
                               "02:00 04:00",
                               "02"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse("gate", "window", bad[i]), BAD);
    assert_int_equal(parse("blue", "conninfo", "postgresql://db1/shop"), 0);
    assert_int_equal(parse("blue", "conninfo", "service=shop"), 0);
    assert_int_equal(parse("blue", "conninfo", "shop"), BAD);
}

static void utf8(void **state)
{
    (void) state;
    assert_int_equal(playbook_utf8("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 10), 10);
    const char *const bad[] = {"ab\xff",         "ab\xc3",         "ab\xc0\x80",
                               "ab\xe0\x80\x80", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80",
                               "ab\xe2\x82",     "ab\x80",         "ab\xf0\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(playbook_utf8(bad[i], strlen(bad[i])), 2);
}

/* A default that its own type refuses would only be found when somebody leaves the key out. */
static void table_is_sound(void **state)
{
    (void) state;
    size_t n = 0;

    for (const struct playbook_key *k = playbook_keys; k->kind; k++, n++) {
        struct strbuf why = {0};
        int64_t num;
        assert_non_null(playbook_find_kind(k->kind));
        assert_true(strlen(k->help) > 5);
        assert_int_equal(k->help[strlen(k->help) - 1], '.');
        assert_true((k->type == PLAYBOOK_ENUM) <= (k->values != NULL));
        assert_true(playbook_is_prefix(k) == (k->tail != NULL));
        if (k->def)
            assert_true(playbook_value_parse(k, k->def, &num, &why));
        if ((k->flags & PLAYBOOK_SECRET) != 0)
            assert_null(k->def);
        for (const struct playbook_key *other = playbook_keys; other < k; other++)
            assert_true(strcmp(other->kind, k->kind) != 0 || strcmp(other->key, k->key) != 0);
        strbuf_release(&why);
    }
    assert_true(n > 80);
}

static void names_of_sections(void **state)
{
    struct strbuf why = {0};
    (void) state;

    assert_true(playbook_name_ok(playbook_find_kind("gate"), "before-hold", &why));
    assert_true(playbook_name_ok(playbook_find_kind("hook"), "after-open", &why));
    assert_true(playbook_name_ok(playbook_find_kind("map"), "a.* -> b.*", &why));
    assert_false(playbook_name_ok(playbook_find_kind("gate"), "after-hold", &why));
    assert_non_null(
        strstr(strbuf_cstr(&why), "must be called before-STEP; did you mean \"before-hold\""));
    strbuf_reset(&why);
    assert_false(playbook_name_ok(playbook_find_kind("hook"), "after-opne", &why));
    assert_non_null(strstr(strbuf_cstr(&why), "did you mean \"after-open\""));
    strbuf_reset(&why);
    assert_false(playbook_name_ok(playbook_find_kind("hook"), "before-xyzzy", &why));
    assert_non_null(strstr(strbuf_cstr(&why), "the steps are preflight, guard"));
    assert_false(playbook_name_ok(playbook_find_kind("blue"), "x", &why));
    assert_false(playbook_name_ok(playbook_find_kind("traffic"), "", &why));
    strbuf_release(&why);
}

static void nearest_keys(void **state)
{
    struct strbuf near = {0};
    (void) state;

    assert_true(playbook_nearest_key("clone", "jbos", &near));
    assert_string_equal(strbuf_cstr(&near), "jobs");
    strbuf_reset(&near);
    assert_true(playbook_nearest_key("map", "upp.total", &near));
    assert_string_equal(strbuf_cstr(&near), "up.total");
    strbuf_reset(&near);
    assert_true(playbook_nearest_key("map", "up", &near));
    assert_string_equal(strbuf_cstr(&near), "up.COLUMN");
    strbuf_reset(&near);
    assert_false(playbook_nearest_key("clone", "elephants", &near));
    strbuf_release(&near);
    assert_string_equal(playbook_nearest_kind("trafic"), "traffic");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
        cmocka_unit_test(numbers_and_their_ranges),
        cmocka_unit_test(words),
        cmocka_unit_test(names_windows_and_connections),
        cmocka_unit_test(utf8),
        cmocka_unit_test(table_is_sound),
        cmocka_unit_test(names_of_sections),
        cmocka_unit_test(nearest_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
