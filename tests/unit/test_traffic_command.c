/* The command driver: what it runs, what it hands down, and what becomes of failures. */
#include "traffic/driver.h"

#include "base/alloc.h"
#include "playbook/playbook_internal.h"
#include "sys/file.h"
#include "sys/stop.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD "[cutover]\nname = shop\n[blue]\nconninfo = service=b\n[green]\nconninfo = service=g\n"

struct fixture {
    struct playbook *pb;
    struct traffic *t;
    char dir[64];
};

static struct error err;

/* $D in keys is the test's directory. */
static bool start(struct fixture *f, const char *keys)
{
    struct traffic_context context = {.run = "shop"};
    struct strbuf text = {0};
    struct error why = {0};

    strcpy(f->dir, "/tmp/pgcutover-unit.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    setenv("D", f->dir, 1);
    strbuf_addf(&text, "%s[traffic edge]\ndriver = command\n%s", HEAD, keys);
    struct playbook_input in = {
        .path = "/books/shop.ini", .dir = "/books", .file = {"shop.ini", text.data, text.len}};
    if (!playbook_load_texts(&f->pb, &in, &why))
        fail_msg("%s", why.message);
    strbuf_release(&text);
    context.log_path = xstrfmt("%s/log", f->dir);
    memset(&err, 0, sizeof err);
    bool ok = traffic_open(&f->t, playbook_at(f->pb, "traffic", 0), &context, &err);
    free((char *) (uintptr_t) context.log_path);
    return ok;
}

static void finish(struct fixture *f)
{
    traffic_close(f->t);
    playbook_free(f->pb);
    assert_true(file_remove_tree(f->dir, &err));
}

static void assert_file(const struct fixture *f, const char *name, const char *expected)
{
    char *path = xstrfmt("%s/%s", f->dir, name);
    struct strbuf text = {0};

    assert_true(file_read(path, &text, 65536, &err));
    assert_string_equal(strbuf_cstr(&text), expected);
    strbuf_release(&text);
    free(path);
}

#define SAY "echo $PGCUTOVER_VERB $PGCUTOVER_SIDE $PGCUTOVER_RUN >> $D/seen\n"
#define SWITCHES "switch_blue = echo blue > $D/side\nswitch_green = echo green > $D/side\n"

static void every_verb_with_its_environment(void **state)
{
    struct fixture f = {0};
    enum traffic_side side;
    bool held;
    (void) state;

    assert_true(start(&f,
                      "probe = echo blue held\nprepare = " SAY "hold = " SAY "switch_blue = " SAY
                      "switch_green = " SAY "verify = " SAY "release = " SAY));
    assert_true(traffic_can_hold(f.t));
    assert_true(traffic_probe(f.t, &side, &held, &err));
    assert_int_equal(side, TRAFFIC_BLUE);
    assert_true(held);
    assert_true(traffic_prepare(f.t, &err));
    assert_true(traffic_hold(f.t, clock_in_ms(5000), &err));
    assert_true(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(5000), &err));
    assert_true(traffic_verify(f.t, TRAFFIC_GREEN, &err));
    assert_true(traffic_release(f.t, TRAFFIC_GREEN, &err));
    assert_true(traffic_switch(f.t, TRAFFIC_BLUE, clock_in_ms(5000), &err));
    assert_true(traffic_retire(f.t, &err));
    assert_file(&f, "seen",
                "prepare blue shop\nhold blue shop\nswitch_green green shop\n"
                "verify green shop\nrelease green shop\nswitch_blue blue shop\n");
    finish(&f);
}

static void the_probe_verifies_where_there_is_no_verify(void **state)
{
    struct fixture f = {0};
    enum traffic_side side;
    bool held;
    (void) state;

    assert_true(start(&f, "probe = cat $D/side\n" SWITCHES));
    assert_false(traffic_can_hold(f.t));
    assert_true(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(5000), &err));
    assert_true(traffic_verify(f.t, TRAFFIC_GREEN, &err));
    assert_false(traffic_verify(f.t, TRAFFIC_BLUE, &err));
    assert_int_equal(err.code, ERR_TRAFFIC);
    assert_string_equal(err.message, "command \"probe\" says green, not blue");
    assert_string_equal(err.context, "traffic edge: verify");
    assert_true(traffic_probe(f.t, &side, &held, &err));
    assert_int_equal(side, TRAFFIC_GREEN);
    assert_false(held);
    finish(&f);
}

static void a_probe_that_babbles_is_unknown(void **state)
{
    struct fixture f = {0};
    enum traffic_side side;
    bool held;
    (void) state;

    assert_true(start(&f, "probe = echo blueish\n" SWITCHES));
    assert_true(traffic_probe(f.t, &side, &held, &err));
    assert_int_equal(side, TRAFFIC_UNKNOWN);
    assert_false(traffic_prepare(f.t, &err));
    assert_int_equal(err.code, ERR_TRAFFIC);
    finish(&f);
}

static void status_and_signal_are_told_but_not_the_command(void **state)
{
    struct fixture f = {0};
    (void) state;

    assert_true(start(&f, "verify = : hunter2; echo broken >&2; exit 7\n"
                          "switch_blue = kill -9 $$\nswitch_green = sleep 60\ntimeout = 300ms\n"));
    assert_false(traffic_verify(f.t, TRAFFIC_BLUE, &err));
    assert_int_equal(err.code, ERR_TRAFFIC);
    assert_string_equal(err.message, "command \"verify\" failed with exit status 7");
    assert_string_equal(err.detail, "broken");
    assert_null(strstr(err.message, "hunter2"));
    assert_false(traffic_switch(f.t, TRAFFIC_BLUE, clock_in_ms(5000), &err));
    assert_non_null(strstr(err.message, "command \"switch_blue\" was ended by signal 9"));
    assert_false(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(5000), &err));
    assert_non_null(strstr(err.message, "took too long"));
    finish(&f);
}

static void a_hold_past_its_deadline_is_released(void **state)
{
    struct fixture f = {0};
    int64_t began = clock_us();
    (void) state;

    assert_true(start(&f, "probe = echo blue\nhold = sleep 60\nrelease = " SAY SWITCHES));
    assert_true(traffic_prepare(f.t, &err));
    assert_false(traffic_hold(f.t, clock_in_ms(200), &err));
    assert_int_equal(err.code, ERR_BUDGET);
    assert_true(clock_us() - began < 5000000);
    assert_file(&f, "seen", "release blue shop\n");
    finish(&f);
}

static void a_stop_ends_a_hold_but_no_release(void **state)
{
    struct fixture f = {0};
    (void) state;

    assert_true(start(&f, "probe = echo blue\nhold = sleep 60\nrelease = " SAY SWITCHES));
    stop_request("by the test");
    assert_false(traffic_hold(f.t, clock_in_ms(5000), &err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_true(traffic_release(f.t, TRAFFIC_BLUE, &err));
    assert_true(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(5000), &err));
    stop_clear();
    assert_file(&f, "seen", "release shop\nrelease blue shop\n");
    finish(&f);
}

static void what_must_be_given(void **state)
{
    static const char *const bad[] = {
        "probe = true\nswitch_blue = true\n",
        "switch_blue = true\nswitch_green = true\n",
        ("probe = true\nhold = true\n" SWITCHES),
    };
    static const char *const missing[] = {"switch_green", "probe", "release"};
    (void) state;

    for (size_t i = 0; i < 3; i++) {
        struct fixture f = {0};
        assert_false(start(&f, bad[i]));
        assert_int_equal(err.code, ERR_PLAYBOOK);
        assert_non_null(strstr(err.message, missing[i]));
        finish(&f);
    }
}

static void the_plan_names_the_commands(void **state)
{
    struct fixture f = {0};
    struct strbuf out = {0};
    (void) state;

    assert_true(start(&f, "probe = true\n" SWITCHES));
    traffic_describe(f.t, &out);
    assert_non_null(strstr(strbuf_cstr(&out), "traffic edge: commands; traffic cannot be held\n"));
    assert_non_null(strstr(strbuf_cstr(&out), "switch_green"));
    assert_null(strstr(strbuf_cstr(&out), "prepare"));
    strbuf_release(&out);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_verb_with_its_environment),
        cmocka_unit_test(the_probe_verifies_where_there_is_no_verify),
        cmocka_unit_test(a_probe_that_babbles_is_unknown),
        cmocka_unit_test(status_and_signal_are_told_but_not_the_command),
        cmocka_unit_test(a_hold_past_its_deadline_is_released),
        cmocka_unit_test(a_stop_ends_a_hold_but_no_release),
        cmocka_unit_test(what_must_be_given),
        cmocka_unit_test(the_plan_names_the_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
