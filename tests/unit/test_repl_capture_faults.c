/* The capture when things break: what passes is survived without loss or doubling, what doesn't is
 * told apart. */
#include "capture_fixture.h"

#include "sys/thread.h"

#include <stdatomic.h>

static void insert(int id, const char *v)
{
    char text[128];
    snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, '%s')", id, v);
    sql(text);
}

/* The thread's end, and its error. */
static struct error failure(void)
{
    struct error e = {0};
    WAIT_FOR(stats_now().failed);
    assert_false(capture_error(fx.capture, &e));
    return e;
}

static struct error void_failure(const char *about)
{
    struct error e = failure();
    if (e.code != ERR_VOID || !strstr(e.message, about))
        fail_msg("%s: %s", error_code_name(e.code), e.message);
    assert_true(e.hint[0]);
    return e;
}

static PGconn *try_client(void)
{
    char conninfo[400];
    snprintf(conninfo, sizeof conninfo, "%s dbname=app", fx.cluster.conninfo);
    PGconn *conn = PQconnectdb(conninfo);
    if (PQstatus(conn) == CONNECTION_OK)
        return conn;
    PQfinish(conn);
    return NULL;
}

/* Inserts 1, 2, 3 ... each in a transaction of its own; one whose COMMIT got no answer is looked
 * up. */
struct writer {
    atomic_int acknowledged;
    atomic_bool stop;
};

static void *write_on(void *arg)
{
    struct writer *w = arg;
    PGconn *conn = NULL;
    char text[64];
    int id = 1;

    while (!atomic_load(&w->stop)) {
        if (!conn && !(conn = try_client())) {
            clock_sleep_ms(5);
            continue;
        }
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, 'w')", id);
        const char *state = cluster_sql(conn, text);
        if (*state == '\0' || strcmp(state, "23505") == 0) {
            atomic_store(&w->acknowledged, id++);
        } else {
            PQfinish(conn);
            conn = NULL;
        }
    }
    PQfinish(conn);
    return NULL;
}

static void read_ids(int first, int last)
{
    for (int id = first; id <= last; id++) {
        char text[16];
        snprintf(text, sizeof text, "%d", id);
        take(PGO_BEGIN);
        struct pgo_message m = take(PGO_INSERT);
        row_is(&m.new_row, text, "w");
        take(PGO_COMMIT);
    }
}

static void test_server_crashes(void **state)
{
    (void) state;
    struct writer w = {0};
    pthread_t thread;

    start_capture();
    OK(thread_start(&thread, "writer", write_on, &w, &fx.err));
    for (int round = 1; round <= 3; round++) {
        int before = atomic_load(&w.acknowledged);
        WAIT_FOR(atomic_load(&w.acknowledged) > before + 200);
        WAIT_FOR(stats_now().connected && stats_now().reconnects == round - 1);
        fixture_disconnect();
        stop_server("immediate");
        start_server();
        fixture_connect();
    }
    int before = atomic_load(&w.acknowledged);
    WAIT_FOR(atomic_load(&w.acknowledged) > before + 200);
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    read_ids(1, atomic_load(&w.acknowledged));
    WAIT_FOR(stats_now().reconnects == 3);
    assert_true(capture_error(fx.capture, &fx.err));
}

/* Cut in the middle of a transaction: nothing of the half is seen, then the whole. */
static void test_stream_is_cut(void **state)
{
    (void) state;
    start_capture();
    insert(-1, "first");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    sql("INSERT INTO t SELECT i, repeat('y', 1000) FROM generate_series(1, 50000) i");
    int64_t sent = stats_now().messages + 1000;
    WAIT_FOR(stats_now().messages > sent);
    for (int i = 0; i < 3; i++) {
        int reconnects = stats_now().reconnects;
        sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = "
            "'s'");
        WAIT_FOR(stats_now().reconnects > reconnects || spool_bytes(fx.spool) > 50000000);
    }
    take(PGO_BEGIN);
    for (int i = 1; i <= 50000; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        struct pgo_message m = take(PGO_INSERT);
        value_is(&m.new_row.values[0], text);
    }
    take(PGO_COMMIT);
    assert_true(stats_now().reconnects >= 1);
}

static void test_slot_is_dropped(void **state)
{
    (void) state;
    start_capture();
    insert(1, "a");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    OK(slot_drop(fx.pg, "s", &fx.err));
    struct error e = void_failure("no longer exists");
    assert_non_null(strstr(e.message, "\"s\""));
    assert_true(spool_last_commit(fx.spool) > 0);
}

static void test_slot_loses_its_wal(void **state)
{
    (void) state;
    start_capture();
    WAIT_FOR(stats_now().connected);
    stop_capture();
    WAIT_FOR(!slot_now().active);
    if (strcmp(slot_now().wal_status, "reserved") != 0)
        skip();
    sql("CREATE TABLE filler (x text)");
    fixture_disconnect();
    stop_server("fast");
    start_server(); /* with max_slot_wal_keep_size */
    fixture_connect();
    for (int i = 0; i < 12; i++)
        sql("INSERT INTO filler SELECT repeat('z', 1000) FROM generate_series(1, 15000); SELECT "
            "pg_switch_wal()");
    sql("CHECKPOINT");
    assert_string_equal(slot_now().wal_status, "lost");
    start_capture();
    void_failure("lost WAL");
}

static void test_publication_is_dropped(void **state)
{
    (void) state;
    start_capture();
    insert(1, "a");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    sql("DROP PUBLICATION p");
    insert(2, "b");
    void_failure("publication");
}

static void test_another_server(void **state)
{
    (void) state;
    struct capture_options o = fixture_options();

    o.identity.system_id++;
    OK(capture_start(&fx.capture, &o, &fx.err));
    void_failure("another server");
    stop_capture();
    o.identity = fx.identity;
    o.identity.timeline++;
    OK(capture_start(&fx.capture, &o, &fx.err));
    void_failure("timeline");
    stop_capture();
    o.identity = fx.identity;
    o.identity.database_oid++;
    OK(capture_start(&fx.capture, &o, &fx.err));
    void_failure("made anew");
}

static void test_database_is_gone(void **state)
{
    (void) state;
    struct capture_options o = fixture_options();
    o.dbname = "nowhere";
    OK(capture_start(&fx.capture, &o, &fx.err));
    void_failure("no longer exists");
}

/* Held by a session that isn't dead yet, it is waited for; then it goes on. */
static void test_slot_is_busy(void **state)
{
    (void) state;
    char conninfo[400];
    snprintf(conninfo, sizeof conninfo, "%s dbname=app replication=database", fx.cluster.conninfo);
    PGconn *holder = PQconnectdb(conninfo);
    PGresult *res = PQexec(
        holder, "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')");
    assert_int_equal(PQresultStatus(res), PGRES_COPY_BOTH);
    PQclear(res);
    start_capture();
    insert(1, "w");
    for (int64_t until = clock_in_ms(500); !clock_passed(until); clock_sleep_ms(20))
        assert_true(!stats_now().connected && !stats_now().failed);
    PQfinish(holder);
    read_ids(1, 1);
}

static void test_spool_limit(void **state)
{
    (void) state;
    close_spool();
    OK(spool_open(&fx.spool, fx.dir, 2000000, &fx.err));
    OK(spool_reader_open(fx.spool, 0, &fx.reader, &fx.err));
    start_capture();
    insert(1, "w");
    read_ids(1, 1);
    sql("INSERT INTO t SELECT i, repeat('y', 1000) FROM generate_series(2, 5000) i");
    struct error e = failure();
    assert_int_equal(e.code, ERR_FULL);
    assert_non_null(strstr(e.hint, "spool_limit"));
    struct spool_record rec;
    while (spool_next(fx.reader, 0, &rec, &fx.err) == SPOOL_GOT)
        assert_int_equal(rec.kind, SPOOL_POSITION);
    WAIT_FOR(!slot_now().active);
    assert_true(slot_now().confirmed_flush >= spool_last_commit(fx.spool));
    assert_true(slot_now().confirmed_flush <= spool_end(fx.spool));
    stop_capture();
    close_spool();
    OK(spool_open(&fx.spool, fx.dir, 0, &fx.err)); /* raised: it goes on where it was */
    OK(spool_reader_open(fx.spool, 0, &fx.reader, &fx.err));
    start_capture();
    read_ids(1, 1);
    take(PGO_BEGIN);
    for (int i = 2; i <= 5000; i++)
        take(PGO_INSERT);
    take(PGO_COMMIT);
}

/* A spool that lost what the slot was told is found out, not gone on with. */
static void test_spool_lost_its_tail(void **state)
{
    (void) state;
    char path[128];

    start_capture();
    insert(1, "w");
    read_ids(1, 1);
    insert(2, "w");
    read_ids(2, 2);
    lsn_t end = current_lsn();
    WAIT_FOR(slot_now().confirmed_flush >= end);
    stop_capture();
    int64_t bytes = spool_bytes(fx.spool);
    close_spool();
    snprintf(path, sizeof path, "%s/0000000000000001.spool", fx.dir);
    assert_int_equal(truncate(path, bytes / 2), 0);
    OK(spool_open(&fx.spool, fx.dir, 0, &fx.err));
    OK(spool_reader_open(fx.spool, 0, &fx.reader, &fx.err));
    start_capture();
    void_failure("changes between are lost");
}

/* This program again, as a capture that dies at the point named by PGCUTOVER_FAULT. */
static int be_victim(char **argv)
{
    struct capture_options o = {.conninfo = argv[1],
                                .dbname = "app",
                                .run = "t",
                                .worker = "capture",
                                .slot = "s",
                                .publication = "p"};
    struct pg *pg = NULL;

    if (!lsn_parse(argv[3], &o.start) || !spool_open(&o.spool, argv[2], 0, &fx.err) ||
        !pg_open(&pg, argv[1], "app", PG_PLAIN, "t", "victim", NULL, &fx.err) ||
        !pg_identify(pg, &o.identity, &fx.err) || !capture_start(&fx.capture, &o, &fx.err))
        return 1;
    for (int64_t until = clock_in_ms(30000); !clock_passed(until); clock_sleep_ms(10))
        capture_set_applied(fx.capture, 0);
    return 2;
}

static void run_victim(const char *fault)
{
    char start[LSN_SIZE];
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        setenv("PGCUTOVER_FAULT", fault, 1);
        execl("/proc/self/exe", "victim", fx.cluster.conninfo, fx.dir, lsn_str(start, fx.start),
              NULL);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("%s: status %x", fault, (unsigned) status);
}

static void test_killed_at_each_point(void **state)
{
    (void) state;
    static const char *const faults[] = {"capture.received=die@1",   "capture.received=die@3",
                                         "capture.received=die@40",  "capture.before-sync=die@1",
                                         "capture.after-sync=die@1", "spool.append=die@2",
                                         "spool.append=die@41",      "capture.before-sync=die@2"};
    struct writer w = {0};
    pthread_t thread;

    close_spool();
    OK(thread_start(&thread, "writer", write_on, &w, &fx.err));
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        run_victim(faults[i]);
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    OK(spool_open(&fx.spool, fx.dir, 0, &fx.err));
    OK(spool_reader_open(fx.spool, 0, &fx.reader, &fx.err));
    start_capture();
    assert_true(atomic_load(&w.acknowledged) > 20);
    read_ids(1, atomic_load(&w.acknowledged));
}

/* Nothing listens: it tries on for ever, and stops at once when told to. */
static void test_unreachable(void **state)
{
    (void) state;
    struct capture_options o = fixture_options();
    o.conninfo = "host=127.0.0.1 port=1 user=postgres dbname=app";
    OK(capture_start(&fx.capture, &o, &fx.err));
    for (int64_t until = clock_in_ms(500); !clock_passed(until); clock_sleep_ms(20))
        assert_true(!stats_now().failed);
    int64_t began = clock_us();
    stop_capture();
    assert_true(clock_us() - began < 400000);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_server_crashes),      TEST(test_stream_is_cut),
        TEST(test_slot_is_dropped),     TEST(test_publication_is_dropped),
        TEST(test_another_server),      TEST(test_database_is_gone),
        TEST(test_slot_is_busy),        TEST(test_spool_limit),
        TEST(test_spool_lost_its_tail), TEST(test_killed_at_each_point),
        TEST(test_unreachable),         TEST(test_slot_loses_its_wal),
    };
    if (argc == 4)
        return be_victim(argv);
    return cmocka_run_group_tests(tests, fixture_start_cluster, fixture_stop_cluster);
}
