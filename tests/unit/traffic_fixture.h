/*
 * traffic_fixture.h - what the tests of PgBouncer's driver share: one cluster for all tests of a
 * program, a PgBouncer and a driver for each.
 */
#ifndef PGCUTOVER_TESTS_TRAFFIC_FIXTURE_H
#define PGCUTOVER_TESTS_TRAFFIC_FIXTURE_H

#include "traffic/driver.h"

#include "base/alloc.h"
#include "bouncer.h"
#include "playbook/playbook_internal.h"
#include "sys/file.h"
#include "sys/stop.h"

#include <setjmp.h>

#include <cmocka.h>

#define HEAD "[cutover]\nname = shop\n[blue]\nconninfo = service=b\n[green]\nconninfo = service=g\n"

struct fixture {
    struct cluster cluster;
    struct bouncer one, two;
    char aliases[96];
    struct playbook *pb;
    struct traffic *t;
    struct writer writers[8];
    size_t nwriters;
};

static struct fixture f;
static struct error err;

static inline char *value_of(const char *dbname)
{
    return xstrfmt("host=127.0.0.1 port=%d dbname=%s", f.cluster.port, dbname);
}

static inline void write_aliases(const char *app)
{
    char *text = xstrfmt("; ours\r\n"
                         "other=host=127.0.0.1 port=%d dbname=blue\n"
                         "\tapp  =  host=127.0.0.1 port=%d dbname=%s \t\r\n"
                         "new = host=127.0.0.1 port=%d dbname=green\n"
                         "apple = host=127.0.0.1 port=%d dbname=blue",
                         f.cluster.port, f.cluster.port, app, f.cluster.port, f.cluster.port);
    bouncer_write(f.aliases, text);
    free(text);
}

static inline int setup_group(void **state)
{
    (void) state;
    if (cluster_start(&f.cluster) != 0)
        return -1;
    snprintf(f.aliases, sizeof f.aliases, "%s/aliases.ini", f.cluster.dir);
    PGconn *conn = cluster_client(&f.cluster, "postgres", "test");
    assert_string_equal(cluster_sql(conn, "CREATE DATABASE blue"), "");
    assert_string_equal(cluster_sql(conn, "CREATE DATABASE green"), "");
    PQfinish(conn);
    for (int i = 0; i < 2; i++) {
        conn = cluster_client(&f.cluster, i ? "green" : "blue", "test");
        assert_string_equal(cluster_sql(conn, "CREATE TABLE w (id serial PRIMARY KEY)"), "");
        PQfinish(conn);
    }
    return 0;
}

static inline int teardown_group(void **state)
{
    (void) state;
    cluster_stop(&f.cluster);
    return 0;
}

static inline int setup(void **state)
{
    (void) state;
    memset(&err, 0, sizeof err);
    write_aliases("blue");
    bouncer_configure(&f.one, &f.cluster, "one", "");
    bouncer_start(&f.one);
    return 0;
}

static inline struct writer *writer_on(const char *alias)
{
    struct writer *w = &f.writers[f.nwriters++];
    writer_start(w, &f.one, alias);
    return w;
}

static inline int writers_stop(void)
{
    int failed = 0;
    for (size_t i = 0; i < f.nwriters; i++) {
        writer_stop(&f.writers[i]);
        failed += atomic_load(&f.writers[i].failed);
    }
    f.nwriters = 0;
    return failed;
}

static inline int teardown(void **state)
{
    char *lock = xstrfmt("%s.pgcutover.lock", f.aliases);
    (void) state;

    traffic_close(f.t);
    playbook_free(f.pb);
    f.t = NULL;
    f.pb = NULL;
    bouncer_stop(&f.one);
    writers_stop(); /* of a test that failed: only now do held ones come back */
    if (f.two.port)
        bouncer_stop(&f.two);
    f.two.port = 0;
    unlink(lock);
    free(lock);
    return 0;
}

static inline char *admin_of(const struct bouncer *b, const char *user, const char *password)
{
    return xstrfmt("host=127.0.0.1 port=%d user=%s password=%s", b->port, user, password);
}

static inline struct playbook *load(const char *admin, const char *more)
{
    char *blue = value_of("blue");
    char *green = value_of("green");
    struct strbuf text = {0};
    struct playbook *pb = NULL;
    struct error why = {0};

    strbuf_addf(&text,
                "%s[traffic edge]\ndriver = pgbouncer\nadmin = %s\nfile = %s\nblue = %s\n"
                "green = %s\n%s%s",
                HEAD, admin, f.aliases, blue, green,
                strstr(more, "timeout") ? "" : "timeout = 5s\n", more);
    struct playbook_input in = {
        .path = "/books/shop.ini", .dir = "/books", .file = {"shop.ini", text.data, text.len}};
    if (!playbook_load_texts(&pb, &in, &why))
        fail_msg("%s", why.message);
    strbuf_release(&text);
    free(blue);
    free(green);
    return pb;
}

static inline void ok(bool done)
{
    if (!done)
        fail_msg("%s: %s (%s)", err.context, err.message, err.detail);
}

static inline void open_as(const char *run, const char *user, const char *password,
                           const char *more)
{
    struct traffic_context context = {
        .run = run, .two_versions = strstr(more, "new_database") != NULL, .pause_us = 2000000};
    char *admin = admin_of(&f.one, user, password);

    traffic_close(f.t);
    playbook_free(f.pb);
    f.t = NULL;
    f.pb = load(admin, more);
    free(admin);
    ok(traffic_open(&f.t, playbook_at(f.pb, "traffic", 0), &context, &err));
}

static inline void open_driver(const char *more)
{
    open_as("shop", "adm", BOUNCER_PASSWORD, more);
}

#define ONE "database = app\n"
#define TWO "database = app\nnew_database = new\n"

static inline void assert_side(enum traffic_side expected, bool expect_held)
{
    enum traffic_side side;
    bool held;

    ok(traffic_probe(f.t, &side, &held, &err));
    assert_string_equal(traffic_side_name(side), traffic_side_name(expected));
    assert_int_equal(held, expect_held);
}

static inline void assert_shown(const struct bouncer *b, const char *alias, const char *column,
                                const char *expected)
{
    char value[128];
    bouncer_show(b, "SHOW DATABASES", "name", alias, column, value);
    assert_string_equal(value, expected);
}

static inline void assert_retry(const char *expected)
{
    char value[128];
    bouncer_show(&f.one, "SHOW CONFIG", "key", "server_login_retry", "value", value);
    assert_string_equal(value, expected);
}

static inline void switch_to(enum traffic_side side)
{
    ok(traffic_hold(f.t, clock_in_ms(5000), &err));
    assert_retry("0");
    ok(traffic_switch(f.t, side, clock_in_ms(5000), &err));
    assert_retry("0");
    ok(traffic_verify(f.t, side, &err));
    ok(traffic_release(f.t, side, &err));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
