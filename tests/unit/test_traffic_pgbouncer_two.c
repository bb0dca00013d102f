/* Two of something: PgBouncers, runs, aliases. */
#include "traffic_fixture.h"

/* ---- several poolers, several runs ---- */

static void one_of_two_poolers_refuses_and_both_go_on(void **state)
{
    char *second;
    char *more;
    (void) state;

    bouncer_configure(&f.two, &f.cluster, "two", "");
    bouncer_start(&f.two);
    second = admin_of(&f.two, "adm", BOUNCER_PASSWORD);
    more = xstrfmt(ONE "admin.2 = %s\n", second);
    open_driver(more);
    ok(traffic_prepare(f.t, &err));
    PGconn *client = bouncer_client(&f.two, "app");
    assert_string_equal(cluster_sql(client, "BEGIN"), "");
    assert_string_equal(cluster_sql(client, "INSERT INTO w DEFAULT VALUES"), "");
    assert_false(traffic_hold(f.t, clock_in_ms(300), &err));
    assert_int_equal(err.code, ERR_BUDGET);
    assert_shown(&f.one, "app", "paused", "0");
    assert_shown(&f.two, "app", "paused", "0");
    assert_string_equal(cluster_sql(client, "COMMIT"), "");
    switch_to(TRAFFIC_GREEN);
    assert_shown(&f.one, "app", "database", "green");
    assert_shown(&f.two, "app", "database", "green");
    assert_side(TRAFFIC_GREEN, false);
    PQfinish(client);
    free(second);
    free(more);
}

static void a_second_run_is_kept_out(void **state)
{
    struct traffic_context context = {.run = "another"};
    struct traffic *t = NULL;
    (void) state;

    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    ok(traffic_open(&t, playbook_at(f.pb, "traffic", 0), &context, &err));
    assert_false(traffic_prepare(t, &err));
    assert_int_equal(err.code, ERR_LOCKED);
    assert_non_null(strstr(err.message, "run shop"));
    traffic_close(t);
    context.run = "shop"; /* the guard's process */
    ok(traffic_open(&t, playbook_at(f.pb, "traffic", 0), &context, &err));
    ok(traffic_prepare(t, &err));
    traffic_close(t);
}

static void what_a_killed_run_had_noted_is_put_back(void **state)
{
    (void) state;
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    ok(traffic_hold(f.t, clock_in_ms(3000), &err));
    open_driver(ONE); /* as after a kill: nothing of the process is left */
    assert_side(TRAFFIC_BLUE, true);
    assert_retry("0");
    ok(traffic_release(f.t, TRAFFIC_BLUE, &err));
    ok(traffic_retire(f.t, &err));
    assert_retry("15");
}

/* ---- two aliases ---- */

static void two_aliases_there_and_back_without_a_failed_client(void **state)
{
    struct writer *old[3];
    struct writer *new[2];
    (void) state;

    open_driver(TWO);
    for (size_t i = 0; i < 3; i++)
        old[i] = writer_on("app");
    assert_side(TRAFFIC_MIXED, false);
    ok(traffic_prepare(f.t, &err));
    assert_side(TRAFFIC_BLUE, false);
    for (size_t i = 0; i < 2; i++)
        new[i] = writer_on("new");
    assert_true(writer_goes_on(old[0]));
    for (int round = 0; round < 3; round++) {
        switch_to(TRAFFIC_GREEN);
        assert_side(TRAFFIC_GREEN, false);
        int stopped = atomic_load(&old[1]->committed);
        assert_true(writer_goes_on(new[1]));
        assert_int_equal(atomic_load(&old[1]->committed), stopped);
        ok(traffic_hold(f.t, clock_in_ms(3000), &err));
        assert_side(TRAFFIC_GREEN, true);
        ok(traffic_switch(f.t, TRAFFIC_BLUE, clock_in_ms(3000), &err));
        assert_side(TRAFFIC_BLUE, true);
        ok(traffic_verify(f.t, TRAFFIC_BLUE, &err));
        ok(traffic_release(f.t, TRAFFIC_BLUE, &err));
        assert_true(writer_goes_on(old[1]));
        assert_side(TRAFFIC_BLUE, false);
    }
    ok(traffic_retire(f.t, &err));
    assert_shown(&f.one, "new", "paused", "0");
    assert_retry("15");
    assert_int_equal(writers_stop(), 0);
}

static void two_aliases_after_a_restart(void **state)
{
    (void) state;
    open_driver(TWO);
    ok(traffic_prepare(f.t, &err));
    switch_to(TRAFFIC_GREEN);
    bouncer_stop(&f.one);
    bouncer_start(&f.one);
    assert_side(TRAFFIC_MIXED, false);
    assert_false(traffic_verify(f.t, TRAFFIC_GREEN, &err));
    assert_false(traffic_hold(f.t, clock_in_ms(500), &err));
    assert_false(traffic_prepare(f.t, &err)); /* would hold green's clients */
    assert_shown(&f.one, "new", "paused", "0");
    ok(traffic_release(f.t, TRAFFIC_GREEN, &err));
    assert_side(TRAFFIC_GREEN, false);
    ok(traffic_verify(f.t, TRAFFIC_GREEN, &err));
    ok(traffic_hold(f.t, clock_in_ms(500), &err));
    open_driver(TWO);
    assert_side(TRAFFIC_UNKNOWN, true);
}

static void a_new_alias_that_was_paused_stays_so(void **state)
{
    (void) state;
    assert_int_equal(bouncer_admin(&f.one, "PAUSE new"), 0);
    open_driver(TWO);
    ok(traffic_prepare(f.t, &err));
    open_driver(TWO);
    ok(traffic_prepare(f.t, &err));
    ok(traffic_retire(f.t, &err));
    assert_shown(&f.one, "new", "paused", "1");
    assert_side(TRAFFIC_BLUE, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_of_two_poolers_refuses_and_both_go_on),
        TEST(a_second_run_is_kept_out),
        TEST(what_a_killed_run_had_noted_is_put_back),
        TEST(two_aliases_there_and_back_without_a_failed_client),
        TEST(two_aliases_after_a_restart),
        TEST(a_new_alias_that_was_paused_stays_so),
    };
    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
