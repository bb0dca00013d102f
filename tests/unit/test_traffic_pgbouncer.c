/* PgBouncer's driver against a real PgBouncer and a real server: one alias, and what is refused. */
#include "traffic_fixture.h"

/* ---- one alias ---- */

static void there_and_back_and_through_a_restart(void **state)
{
    struct writer *w[4];
    struct strbuf before = {0};
    struct strbuf after = {0};
    (void) state;

    ok(file_read(f.aliases, &before, 65536, &err));
    open_driver(ONE);
    for (size_t i = 0; i < 4; i++)
        w[i] = writer_on("app");
    ok(traffic_prepare(f.t, &err));
    assert_side(TRAFFIC_BLUE, false);
    for (int round = 0; round < 3; round++) {
        switch_to(TRAFFIC_GREEN);
        assert_side(TRAFFIC_GREEN, false);
        assert_true(writer_goes_on(w[0]));
        switch_to(TRAFFIC_BLUE);
        assert_true(writer_goes_on(w[1]));
    }
    assert_int_equal(writers_stop(), 0);
    ok(file_read(f.aliases, &after, 65536, &err));
    /* blanks behind the value belong to the line, not to it */
    assert_string_equal(strbuf_cstr(&after), strbuf_cstr(&before));
    switch_to(TRAFFIC_GREEN);
    bouncer_stop(&f.one);
    bouncer_start(&f.one);
    assert_side(TRAFFIC_GREEN, false);
    assert_shown(&f.one, "app", "database", "green");
    assert_shown(&f.one, "other", "database", "blue");
    assert_shown(&f.one, "apple", "database", "blue");
    ok(traffic_retire(f.t, &err));
    assert_retry("15");
    strbuf_release(&before);
    strbuf_release(&after);
}

static void a_client_in_a_transaction_is_named_and_all_go_on(void **state)
{
    char *pid;
    PGconn *idle = bouncer_client(&f.one, "app");
    PGconn *other = bouncer_client(&f.one, "app");
    (void) state;

    assert_string_equal(cluster_sql(idle, "BEGIN"), "");
    PGresult *res = PQexec(idle, "SELECT pg_backend_pid()");
    pid = xstrfmt("server pid %s", PQgetvalue(res, 0, 0));
    PQclear(res);
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    int64_t began = clock_us();
    assert_false(traffic_hold(f.t, clock_in_ms(300), &err));
    assert_in_range(clock_us() - began, 290000, 2000000);
    assert_int_equal(err.code, ERR_BUDGET);
    assert_non_null(strstr(err.message, "shopfront"));
    assert_non_null(strstr(err.message, "postgres at 127.0.0.1:"));
    assert_non_null(strstr(err.message, pid));
    assert_side(TRAFFIC_BLUE, false);
    assert_string_equal(cluster_sql(other, "INSERT INTO w DEFAULT VALUES"), "");
    assert_string_equal(cluster_sql(idle, "COMMIT"), "");
    ok(traffic_hold(f.t, clock_in_ms(3000), &err));
    ok(traffic_hold(f.t, clock_in_ms(3000), &err)); /* again */
    assert_side(TRAFFIC_BLUE, true);
    ok(traffic_release(f.t, TRAFFIC_BLUE, &err));
    ok(traffic_release(f.t, TRAFFIC_BLUE, &err)); /* "is not paused" */
    assert_side(TRAFFIC_BLUE, false);
    PQfinish(idle);
    PQfinish(other);
    free(pid);
}

static void *commit_later(void *conn)
{
    clock_sleep_ms(400);
    return (void *) (uintptr_t) (*cluster_sql(conn, "COMMIT") == '\0');
}

static void a_pause_that_does_not_wait_is_not_believed(void **state)
{
    PGconn *client = bouncer_client(&f.one, "app");
    pthread_t thread;
    void *committed = NULL;
    (void) state;

    assert_int_equal(bouncer_admin(&f.one, "WAIT_CLOSE app"), 0);
    assert_string_equal(cluster_sql(client, "BEGIN"), "");
    assert_string_equal(cluster_sql(client, "INSERT INTO w DEFAULT VALUES"), "");
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    assert_false(traffic_hold(f.t, clock_in_ms(300), &err));
    assert_int_equal(err.code, ERR_BUDGET);
    assert_side(TRAFFIC_BLUE, false);
    int64_t began = clock_us();
    pthread_create(&thread, NULL, commit_later, client);
    ok(traffic_hold(f.t, clock_in_ms(5000), &err));
    assert_true(clock_us() - began >= 390000);
    assert_shown(&f.one, "app", "current_connections", "0");
    pthread_join(thread, &committed);
    assert_non_null(committed);
    ok(traffic_release(f.t, TRAFFIC_BLUE, &err));
    PQfinish(client);
}

static void set_login_delay(const char *delay)
{
    PGconn *conn = cluster_client(&f.cluster, "postgres", "test");
    char *sql = xstrfmt("ALTER SYSTEM SET pre_auth_delay = %s", delay);
    char *shown = xstrdup("");
    int64_t deadline = clock_in_ms(5000);

    assert_string_equal(cluster_sql(conn, sql), "");
    assert_string_equal(cluster_sql(conn, "SELECT pg_reload_conf()"), "");
    while (strcmp(shown, delay) != 0 && !clock_passed(deadline)) {
        PGresult *res =
            PQexec(conn, "SELECT setting FROM pg_settings WHERE name = 'pre_auth_delay'");
        free(shown);
        shown = xstrdup(PQgetvalue(res, 0, 0));
        PQclear(res);
    }
    assert_string_equal(shown, delay);
    free(shown);
    free(sql);
    PQfinish(conn);
}

static void a_login_that_the_pause_cuts_off_is_tried_again_at_once(void **state)
{
    struct writer *w;
    char logins[128] = "";
    int64_t deadline = clock_in_ms(5000);
    (void) state;

    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    set_login_delay("1");
    w = writer_on("app");
    while (strcmp(logins, "1") != 0 && !clock_passed(deadline))
        bouncer_show(&f.one, "SHOW POOLS", "database", "app", "sv_login", logins);
    assert_string_equal(logins, "1");
    switch_to(TRAFFIC_GREEN);
    int64_t began = clock_us();
    assert_true(writer_goes_on(w));
    assert_true(clock_us() - began < 5000000);
    set_login_delay("0");
    assert_int_equal(writers_stop(), 0);
    ok(traffic_retire(f.t, &err));
    assert_retry("15");
}

static void a_reload_that_only_says_ok_is_undone(void **state)
{
    struct strbuf before = {0};
    struct strbuf after = {0};
    struct strbuf ini = {0};
    (void) state;

    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    ok(file_read(f.aliases, &before, 65536, &err));
    ok(file_read(f.one.ini, &ini, 65536, &err));
    bouncer_write(f.one.ini, "this is no configuration\n");
    ok(traffic_hold(f.t, clock_in_ms(3000), &err));
    assert_false(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(3000), &err));
    assert_int_equal(err.code, ERR_TRAFFIC);
    assert_non_null(strstr(err.message, "points at 127.0.0.1:"));
    assert_non_null(strstr(err.detail, "was put back"));
    ok(file_read(f.aliases, &after, 65536, &err));
    assert_string_equal(strbuf_cstr(&after), strbuf_cstr(&before));
    assert_false(traffic_release(f.t, TRAFFIC_GREEN, &err));
    assert_side(TRAFFIC_BLUE, true);
    ok(traffic_release(f.t, TRAFFIC_BLUE, &err));
    bouncer_write(f.one.ini, strbuf_cstr(&ini));
    switch_to(TRAFFIC_GREEN);
    strbuf_release(&before);
    strbuf_release(&after);
    strbuf_release(&ini);
}

static void a_file_without_the_alias_is_never_loaded(void **state)
{
    (void) state;
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    bouncer_write(f.aliases, "other = dbname=blue\n[users]\napp = pool_mode=session\n");
    assert_false(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(1000), &err));
    assert_non_null(strstr(err.message, "has no line for alias \"app\""));
    assert_shown(&f.one, "app", "database", "blue");
    bouncer_write(f.aliases, "app = dbname=blue\napp = dbname=green\n");
    assert_false(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(1000), &err));
    assert_non_null(strstr(err.message, "has 2 lines for alias \"app\""));
}

static void a_file_that_is_ahead_is_mixed(void **state)
{
    (void) state;
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    write_aliases("green");
    assert_side(TRAFFIC_MIXED, false);
    assert_false(traffic_verify(f.t, TRAFFIC_BLUE, &err));
    assert_false(traffic_prepare(f.t, &err));
    assert_non_null(strstr(err.message, "a restart would move traffic"));
    ok(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(1000), &err));
    assert_side(TRAFFIC_GREEN, false);
    write_aliases("elsewhere");
    assert_side(TRAFFIC_UNKNOWN, false);
}

static void a_restart_in_the_middle_is_waited_for(void **state)
{
    (void) state;
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    ok(traffic_hold(f.t, clock_in_ms(3000), &err));
    bouncer_stop(&f.one);
    pid_t pid = fork();
    if (pid == 0) {
        clock_sleep_ms(300);
        bouncer_start(&f.one);
        _exit(0);
    }
    ok(traffic_switch(f.t, TRAFFIC_GREEN, clock_in_ms(5000), &err));
    ok(traffic_verify(f.t, TRAFFIC_GREEN, &err));
    ok(traffic_release(f.t, TRAFFIC_GREEN, &err));
    waitpid(pid, NULL, 0);
    assert_side(TRAFFIC_GREEN, false);
}

static void *stop_later(void *arg)
{
    clock_sleep_ms(200);
    stop_request("by the test");
    return arg;
}

static void a_stop_takes_the_hold_back(void **state)
{
    pthread_t thread;
    PGconn *client = bouncer_client(&f.one, "app");
    (void) state;

    assert_string_equal(cluster_sql(client, "BEGIN"), "");
    assert_string_equal(cluster_sql(client, "INSERT INTO w DEFAULT VALUES"), "");
    open_driver(ONE);
    ok(traffic_prepare(f.t, &err));
    pthread_create(&thread, NULL, stop_later, NULL);
    assert_false(traffic_hold(f.t, clock_in_ms(5000), &err));
    assert_int_equal(err.code, ERR_STOPPED);
    pthread_join(thread, NULL);
    stop_clear();
    assert_side(TRAFFIC_BLUE, false);
    PQfinish(client);
}

/* ---- what prepare refuses ---- */

static void assert_refused(const char *message, const char *hint)
{
    assert_false(traffic_prepare(f.t, &err));
    assert_int_equal(err.code, ERR_TRAFFIC);
    if (!strstr(err.message, message) || !strstr(err.hint, hint))
        fail_msg("%s / %s", err.message, err.hint);
    assert_null(strstr(err.message, BOUNCER_PASSWORD));
}

static void what_prepare_refuses(void **state)
{
    (void) state;
    open_as("shop", "adm", "wrong", ONE);
    assert_refused("authentication failed", "password");
    open_as("shop", "postgres", "p", ONE);
    assert_refused("not allowed", "admin_users");
    open_as("shop", "stat", "s", ONE);
    assert_refused("admin access needed", "admin_users");
    open_driver("database = nosuch\n");
    assert_refused("has no alias \"nosuch\"", "SHOW DATABASES");
    open_driver("database = app\nnew_database = nosuch\n");
    assert_refused("has no alias \"nosuch\"", "SHOW DATABASES");
    open_driver(ONE "pool_mode = statement\n");
    assert_refused("is transaction, not statement", "");
    assert_int_equal(bouncer_admin(&f.one, "SET query_wait_timeout=1"), 0);
    open_driver(ONE);
    assert_refused("query_wait_timeout", "raise query_wait_timeout");
    assert_int_equal(bouncer_admin(&f.one, "SET query_wait_timeout=120"), 0);
    assert_int_equal(bouncer_admin(&f.one, "SET pool_mode=session"), 0);
    assert_refused("session pooling can't be held", "pool_mode=transaction");
    assert_int_equal(bouncer_admin(&f.one, "SET pool_mode=transaction"), 0);
    ok(traffic_prepare(f.t, &err));
    bouncer_stop(&f.one);
    assert_refused("cannot connect to PgBouncer's admin console", "Check that PgBouncer runs");
}

static void a_pooler_that_does_not_answer_is_not_waited_for_long(void **state)
{
    int pid = 0;
    (void) state;

    open_driver(ONE "timeout = 400ms\n");
    FILE *file = fopen(f.one.pid_file, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    kill(pid, SIGSTOP);
    int64_t began = clock_us();
    assert_refused("did not answer in time", "timeout");
    assert_true(clock_us() - began < 3000000);
    kill(pid, SIGCONT);
}

static void the_plan_shows_no_secret(void **state)
{
    struct strbuf out = {0};
    (void) state;

    open_driver(ONE);
    traffic_describe(f.t, &out);
    assert_non_null(strstr(strbuf_cstr(&out), "PAUSE \"app\""));
    assert_null(strstr(strbuf_cstr(&out), BOUNCER_PASSWORD));
    strbuf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(there_and_back_and_through_a_restart),
        TEST(a_client_in_a_transaction_is_named_and_all_go_on),
        TEST(a_pause_that_does_not_wait_is_not_believed),
        TEST(a_login_that_the_pause_cuts_off_is_tried_again_at_once),
        TEST(a_reload_that_only_says_ok_is_undone),
        TEST(a_file_without_the_alias_is_never_loaded),
        TEST(a_file_that_is_ahead_is_mixed),
        TEST(a_restart_in_the_middle_is_waited_for),
        TEST(a_stop_takes_the_hold_back),
        TEST(what_prepare_refuses),
        TEST(a_pooler_that_does_not_answer_is_not_waited_for_long),
        TEST(the_plan_shows_no_secret),
    };
    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
