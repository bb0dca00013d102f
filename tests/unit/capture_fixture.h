/*
 * capture_fixture.h - a capture over a cluster of its own: slot, publication, spool directory, and
 * a reader that decodes what was spooled. Static, for the tests of the capture.
 */
#ifndef PGCUTOVER_TESTS_CAPTURE_FIXTURE_H
#define PGCUTOVER_TESTS_CAPTURE_FIXTURE_H

#include "base/alloc.h"
#include "base/clock.h"
#include "pg/slot.h"
#include "repl/capture.h"
#include "repl/pgoutput.h"
#include "sys/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cluster.h"

#define OK(call)                                                                                   \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s: %s %s", #call, fx.err.message, fx.err.detail);                           \
    } while (0)

/* Polls for a condition, never longer than the deadline. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        int64_t wait_until = clock_in_ms(60000);                                                   \
        while (!(condition)) {                                                                     \
            if (clock_passed(wait_until))                                                          \
                fail_msg("waited in vain for %s", #condition);                                     \
            clock_sleep_ms(2);                                                                     \
        }                                                                                          \
    } while (0)

static struct {
    struct cluster cluster;
    struct pg *pg;  /* ours, for slots */
    PGconn *client; /* a client that isn't ours */
    struct pg_identity identity;
    char dir[64];
    lsn_t start;
    struct spool *spool;
    struct capture *capture;
    struct spool_reader *reader;
    struct arena *arena;
    struct error err;
} fx;

static inline void sql(const char *text)
{
    const char *state = cluster_sql(fx.client, text);
    if (*state)
        fail_msg("%s: %s %s", text, state, PQerrorMessage(fx.client));
}

static inline char *sql_value(const char *text)
{
    PGresult *res = PQexec(fx.client, text);
    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
        fail_msg("%s: %s", text, PQerrorMessage(fx.client));
    char *value = xstrdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return value;
}

static inline lsn_t current_lsn(void)
{
    lsn_t lsn;
    char *text = sql_value("SELECT pg_current_wal_flush_lsn()");
    assert_true(lsn_parse(text, &lsn));
    free(text);
    return lsn;
}

static inline struct slot_info slot_now(void)
{
    struct slot_info info;
    OK(slot_read(fx.pg, "s", &info, &fx.err));
    return info;
}

static inline int fixture_start_cluster(void **state)
{
    (void) state;
    return cluster_start(&fx.cluster);
}

static inline int fixture_stop_cluster(void **state)
{
    (void) state;
    cluster_stop(&fx.cluster);
    return 0;
}

static inline void fixture_connect(void)
{
    char conninfo[300];
    snprintf(conninfo, sizeof conninfo, "%s dbname=app", fx.cluster.conninfo);
    OK(pg_open(&fx.pg, conninfo, NULL, PG_PLAIN, "t", "test", NULL, &fx.err));
    OK(pg_identify(fx.pg, &fx.identity, &fx.err));
    fx.client = cluster_client(&fx.cluster, "app", "client");
}

static inline void fixture_disconnect(void)
{
    PQfinish(fx.client);
    pg_close(fx.pg);
    fx.client = NULL;
    fx.pg = NULL;
}

static inline void pg_ctl(const char *how, const char *option, const char *value)
{
    char path[300];
    char data[80];
    char log[80];
    snprintf(path, sizeof path, "%s/pg_ctl", fx.cluster.bin);
    snprintf(data, sizeof data, "%s/data", fx.cluster.dir);
    snprintf(log, sizeof log, "%s/server.log", fx.cluster.dir);
    const char *const argv[] = {path, "-D", data,   "-l",  log, "-w",
                                "-t", "30", option, value, how, NULL};
    assert_int_equal(cluster_run(&fx.cluster, argv), 0);
}

static inline void stop_server(const char *mode)
{
    pg_ctl("stop", "-m", mode);
}

static inline void start_server(void)
{
    char options[200];
    snprintf(options, sizeof options,
             "-p %d -k %s -c listen_addresses= -c wal_level=logical -c fsync=off "
             "-c max_slot_wal_keep_size=64MB",
             fx.cluster.port, fx.cluster.dir);
    pg_ctl("start", "-o", options);
}

/* A database with settings that would spoil values, publication p of all tables, slot s, an empty
 * spool. */
static inline int fixture_setup(void **state)
{
    (void) state;
    error_clear(&fx.err);
    PGconn *admin = cluster_client(&fx.cluster, "postgres", "admin");
    cluster_sql(admin, "DROP DATABASE IF EXISTS app WITH (FORCE)");
    if (*cluster_sql(admin, "CREATE DATABASE app") ||
        *cluster_sql(admin, "ALTER DATABASE app SET extra_float_digits = 0") ||
        *cluster_sql(admin, "ALTER DATABASE app SET datestyle = 'SQL, DMY'"))
        return -1;
    PQfinish(admin);
    fixture_connect();
    sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    sql("CREATE PUBLICATION p FOR ALL TABLES");
    OK(slot_create_plain(fx.pg, "s", &fx.err));
    fx.start = slot_now().confirmed_flush;
    strcpy(fx.dir, "/tmp/test_capture.XXXXXX");
    if (!mkdtemp(fx.dir))
        return -1;
    OK(spool_open(&fx.spool, fx.dir, 0, &fx.err));
    OK(spool_reader_open(fx.spool, 0, &fx.reader, &fx.err));
    fx.arena = arena_new(1 << 20);
    return 0;
}

static inline struct capture_options fixture_options(void)
{
    return (struct capture_options){.conninfo = fx.cluster.conninfo,
                                    .dbname = "app",
                                    .run = "t",
                                    .worker = "capture",
                                    .slot = "s",
                                    .publication = "p",
                                    .identity = fx.identity,
                                    .start = fx.start,
                                    .spool = fx.spool};
}

static inline void start_capture(void)
{
    struct capture_options o = fixture_options();
    OK(capture_start(&fx.capture, &o, &fx.err));
}

static inline void stop_capture(void)
{
    capture_stop(fx.capture);
    fx.capture = NULL;
}

static inline struct capture_stats stats_now(void)
{
    struct capture_stats st;
    capture_stats(fx.capture, &st);
    return st;
}

static inline void close_spool(void)
{
    spool_reader_close(fx.reader);
    spool_close(fx.spool);
    fx.reader = NULL;
    fx.spool = NULL;
}

static inline int fixture_teardown(void **state)
{
    (void) state;
    stop_capture();
    close_spool();
    OK(slot_drop(fx.pg, "s", &fx.err));
    fixture_disconnect();
    arena_free(fx.arena);
    return spool_remove(fx.dir, &fx.err) ? 0 : -1;
}

/* The next message that is neither RELATION nor TYPE; fails when none comes. */
static inline struct pgo_message next_message(void)
{
    struct pgo_message m;
    struct spool_record rec;

    for (;;) {
        arena_reset(fx.arena);
        enum spool_read got = spool_next(fx.reader, 60000, &rec, &fx.err);
        if (got != SPOOL_GOT)
            fail_msg("no message: result %d %s", got, fx.err.message);
        if (rec.kind != SPOOL_MESSAGE)
            continue;
        OK(pgo_decode(&m, rec.data, rec.len, false, fx.arena, &fx.err));
        if (m.type != PGO_RELATION && m.type != PGO_TYPE)
            return m;
    }
}

static inline struct pgo_message take(enum pgo_type type)
{
    struct pgo_message m = next_message();
    assert_int_equal(m.type, type);
    return m;
}

static inline void value_is(const struct pgo_value *v, const char *text)
{
    assert_int_equal(v->kind, 't');
    if (v->len != strlen(text) || memcmp(v->data, text, v->len) != 0)
        fail_msg("\"%.*s\" is not \"%s\"", (int) v->len, v->data, text);
}

static inline void row_is(const struct pgo_tuple *t, const char *a, const char *b)
{
    assert_int_equal(t->n, 2);
    value_is(&t->values[0], a);
    value_is(&t->values[1], b);
}

#endif
