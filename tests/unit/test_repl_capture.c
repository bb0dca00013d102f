/* What the capture spools of a real server's changes, and what the slot is told. */
#include "capture_fixture.h"

/* Freed memory would stay in the sanitizer's quarantine and be taken for a leak by the test of
 * bounded memory. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

static const char create_types[] = "CREATE TYPE mood AS ENUM ('sad', 'it''s ok');"
                                   "CREATE TYPE pair AS (a int, b text);"
                                   "CREATE DOMAIN positive AS int CHECK (value > 0);"
                                   "CREATE TABLE types (id int PRIMARY KEY, i2 smallint, i8 "
                                   "bigint, n numeric, f4 real, f8 float8, b bool, c char(5),"
                                   " vc varchar(10), tx text, by bytea, d date, tm time, ttz "
                                   "timetz, ts timestamp, tstz timestamptz, iv interval,"
                                   " u uuid, js json, jb jsonb, ar int[], ta text[], m mood, p "
                                   "pair, dm positive, r int4range, mr int4multirange,"
                                   " ip inet, mac macaddr, bt bit(3), vb varbit, x xml, mo money, "
                                   "pt point, tv tsvector, ls pg_lsn,"
                                   " g int GENERATED ALWAYS AS (id * 2) STORED)";

static const char insert_types[] =
    "INSERT INTO types VALUES (1, -32768, 9223372036854775807, 'NaN', 0.1, 0.30000000000000004, "
    "true, 'ab', 'v',"
    " E'tab\\tnl\\nquote''\\\\\xc3\xa4', decode('000102ff5c27', 'hex'), '0044-03-15 BC', '24:00', "
    "'12:00+05:30',"
    " '-infinity', '2024-02-03 04:05:06.123456+00', '-1 mon 2 days 03:04:05.6',"
    " 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\" :  1}', '{\"a\": 1.00}', '{}', "
    "'{NULL,\"NULL\",\"a,b\",\"\"}',"
    " 'it''s ok', ROW(1, 'x, \"y\"'), 7, '[1,5)', '{[1,2),[5,7)}', '10.0.0.1/8', "
    "'08:00:2b:01:02:03', B'101', B'',"
    " '<a>b</a>', 12.34, '(1,2.5)', 'a:1 b:2', '16/B374D848')";

static void test_all_types(void **state)
{
    (void) state;
    PGresult *res;

    sql(create_types);
    start_capture();
    sql(insert_types);
    sql("INSERT INTO types (id) VALUES (2)");
    sql("SET datestyle = ISO; SET extra_float_digits = 3; SET intervalstyle = postgres; SET "
        "timezone = UTC;"
        "SET lc_monetary = 'C'; SET bytea_output = hex");
    res = PQexec(fx.client, "SELECT * FROM types WHERE id = 1");
    assert_int_equal(PQntuples(res), 1);
    take(PGO_BEGIN);
    struct pgo_message m = take(PGO_INSERT);
    assert_int_equal(m.new_row.n, PQnfields(res) - 1); /* without the generated column */
    for (int i = 0; i < m.new_row.n; i++)
        value_is(&m.new_row.values[i], PQgetvalue(res, 0, i));
    PQclear(res);
    take(PGO_COMMIT);
    take(PGO_BEGIN);
    m = take(PGO_INSERT);
    value_is(&m.new_row.values[0], "2");
    for (int i = 1; i < m.new_row.n; i++)
        assert_int_equal(m.new_row.values[i].kind, 'n');
    take(PGO_COMMIT);
}

static void test_changes(void **state)
{
    (void) state;
    struct pgo_message m;

    sql("CREATE TABLE child (id serial PRIMARY KEY, t int REFERENCES t)");
    sql("CREATE TABLE bare (a int, b text)");
    sql("ALTER TABLE bare REPLICA IDENTITY FULL");
    sql("CREATE TABLE nothing ()");
    start_capture();
    sql("INSERT INTO t VALUES (1, 'a')");
    sql("UPDATE t SET v = 'b' WHERE id = 1");
    sql("UPDATE t SET id = 2 WHERE id = 1");
    sql("DELETE FROM t WHERE id = 2");
    sql("TRUNCATE t RESTART IDENTITY CASCADE");
    sql("INSERT INTO bare VALUES (1, 'x'); UPDATE bare SET b = 'y'; DELETE FROM bare");
    sql("INSERT INTO nothing DEFAULT VALUES");

    m = take(PGO_BEGIN);
    lsn_t commit_lsn = m.lsn;
    m = take(PGO_INSERT);
    row_is(&m.new_row, "1", "a");
    m = take(PGO_COMMIT);
    assert_true(m.lsn == commit_lsn && m.end_lsn > commit_lsn);
    take(PGO_BEGIN);
    m = take(PGO_UPDATE);
    assert_int_equal(m.old_kind, 0);
    row_is(&m.new_row, "1", "b");
    take(PGO_COMMIT), take(PGO_BEGIN);
    m = take(PGO_UPDATE);
    assert_int_equal(m.old_kind, 'K');
    value_is(&m.old_row.values[0], "1");
    row_is(&m.new_row, "2", "b");
    take(PGO_COMMIT), take(PGO_BEGIN);
    m = take(PGO_DELETE);
    assert_int_equal(m.old_kind, 'K');
    value_is(&m.old_row.values[0], "2");
    take(PGO_COMMIT), take(PGO_BEGIN);
    m = take(PGO_TRUNCATE);
    assert_int_equal(m.nrelations, 2);
    assert_int_equal(m.truncate_options, 3);
    take(PGO_COMMIT), take(PGO_BEGIN);
    take(PGO_INSERT);
    m = take(PGO_UPDATE);
    assert_int_equal(m.old_kind, 'O');
    row_is(&m.old_row, "1", "x");
    row_is(&m.new_row, "1", "y");
    m = take(PGO_DELETE);
    row_is(&m.old_row, "1", "y");
    take(PGO_COMMIT), take(PGO_BEGIN);
    m = take(PGO_INSERT);
    assert_int_equal(m.new_row.n, 0);
    take(PGO_COMMIT);
}

static void test_unchanged_toast(void **state)
{
    (void) state;
    sql("ALTER TABLE t ADD n int");
    sql("ALTER TABLE t ALTER v SET STORAGE EXTERNAL");
    start_capture();
    sql("INSERT INTO t VALUES (1, repeat('x', 100000), 1)");
    sql("UPDATE t SET n = 2");
    take(PGO_BEGIN);
    struct pgo_message m = take(PGO_INSERT);
    assert_int_equal(m.new_row.values[1].len, 100000);
    take(PGO_COMMIT), take(PGO_BEGIN);
    m = take(PGO_UPDATE);
    assert_int_equal(m.new_row.values[1].kind, 'u');
    value_is(&m.new_row.values[2], "2");
    take(PGO_COMMIT);
}

static void test_origin_is_spooled(void **state)
{
    (void) state;
    sql("SELECT pg_replication_origin_create('elsewhere') WHERE NOT EXISTS "
        "(SELECT FROM pg_replication_origin WHERE roname = 'elsewhere')");
    start_capture();
    sql("SELECT pg_replication_origin_session_setup('elsewhere')");
    sql("INSERT INTO t VALUES (1, 'a')");
    sql("SELECT pg_replication_origin_session_reset()");
    take(PGO_BEGIN);
    struct pgo_message m = take(PGO_ORIGIN);
    assert_string_equal(m.name, "elsewhere");
    take(PGO_INSERT);
    take(PGO_COMMIT);
}

static long memory_kb(void)
{
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld kB", &kb) == 1)
            break;
    fclose(f);
    return kb;
}

static void test_large_transaction_in_bounded_memory(void **state)
{
    (void) state;
    start_capture();
    sql("INSERT INTO t VALUES (0, 'first')");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    long before = memory_kb();
    sql("INSERT INTO t SELECT i, repeat('x', 500) || i FROM generate_series(1, 200000) i");
    take(PGO_BEGIN);
    for (int i = 1; i <= 200000; i++) {
        char id[16];
        struct pgo_message m = next_message();
        snprintf(id, sizeof id, "%d", i);
        if (m.type != PGO_INSERT || m.new_row.values[1].len < 500)
            fail_msg("row %d", i);
        value_is(&m.new_row.values[0], id);
    }
    take(PGO_COMMIT);
    assert_true(spool_bytes(fx.spool) > 100000000);
    long grown = memory_kb() - before;
    if (grown > 40000)
        fail_msg("memory grew by %ld kB for a transaction of 100 MB", grown);
    assert_true(stats_now().messages >= 200000);
}

static void test_latency(void **state)
{
    (void) state;
    int64_t sum = 0;

    start_capture();
    sql("INSERT INTO t VALUES (0, '')");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    for (int i = 1; i <= 200; i++) {
        char text[64];
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, '')", i);
        sql(text);
        int64_t began = clock_us();
        take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
        sum += clock_us() - began;
    }
    print_message("from COMMIT's return to the reader: %lld us on average\n",
                  (long long) (sum / 200));
    assert_true(sum / 200 < 20000); /* a polling sleep anywhere would be over it */
}

static void test_stop_is_quick_and_restart_goes_on(void **state)
{
    (void) state;
    start_capture();
    for (int round = 0; round < 5; round++) {
        char text[64];
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, 'r')", round);
        sql(text);
        take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
        int64_t began = clock_us();
        stop_capture();
        assert_true(clock_us() - began < 400000);
        /* said goodbye: all durable, and told */
        assert_true(spool_synced(fx.spool) == spool_end(fx.spool));
        WAIT_FOR(!slot_now().active);
        assert_true(slot_now().confirmed_flush >= spool_last_commit(fx.spool));
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, 'meanwhile')", 100 + round);
        sql(text);
        start_capture();
        take(PGO_BEGIN);
        struct pgo_message m = take(PGO_INSERT);
        value_is(&m.new_row.values[1], "meanwhile");
        take(PGO_COMMIT);
    }
}

/* At any moment the slot knows no more than what is durable here. */
static void test_confirmed_is_synced(void **state)
{
    (void) state;
    start_capture();
    WAIT_FOR(stats_now().connected);
    for (int i = 0; i < 300; i++) {
        char text[64];
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, 'x')", i);
        sql(text);
        lsn_t told = slot_now().confirmed_flush;
        assert_true(told <= fx.start || told <= spool_synced(fx.spool));
        assert_true(spool_synced(fx.spool) <= spool_end(fx.spool));
    }
    lsn_t end = current_lsn();
    WAIT_FOR(slot_now().confirmed_flush >= end);
    assert_true(spool_synced(fx.spool) >= end);
}

static void test_confirmed_is_applied(void **state)
{
    (void) state;
    lsn_t ends[10];

    start_capture();
    capture_confirm(fx.capture, CONFIRM_APPLIED);
    for (int i = 0; i < 10; i++) {
        char text[64];
        snprintf(text, sizeof text, "INSERT INTO t VALUES (%d, 'x')", i);
        sql(text);
        take(PGO_BEGIN), take(PGO_INSERT);
        ends[i] = take(PGO_COMMIT).end_lsn;
    }
    WAIT_FOR(spool_synced(fx.spool) >= ends[9]);
    for (int i = 0; i < 9; i += 4) {
        capture_set_applied(fx.capture, ends[i]);
        capture_set_applied(fx.capture, ends[0]); /* never goes back */
        lsn_t told;
        WAIT_FOR((told = slot_now().confirmed_flush) >= ends[i]);
        assert_true(told == ends[i]);
    }
    sql("CREATE TABLE other (x int)"); /* WAL with nothing for us: it may not pass what waits */
    lsn_t end = current_lsn();
    WAIT_FOR(spool_end(fx.spool) >= end);
    for (int64_t until = clock_in_ms(1500); !clock_passed(until); clock_sleep_ms(50))
        assert_true(slot_now().confirmed_flush == ends[8]);
    capture_set_applied(fx.capture, ends[9]); /* nothing left to apply: what is known goes along */
    WAIT_FOR(slot_now().confirmed_flush >= end);
}

static void test_positions_of_an_idle_source(void **state)
{
    (void) state;
    struct spool_record rec;

    start_capture();
    WAIT_FOR(stats_now().connected);
    sql("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE t");
    sql("CREATE TABLE other (x int)");
    sql("INSERT INTO other SELECT generate_series(1, 1000)");
    lsn_t end = current_lsn();
    int64_t began = clock_us();
    do
        assert_int_equal(spool_next(fx.reader, 60000, &rec, &fx.err), SPOOL_GOT);
    while (rec.kind != SPOOL_POSITION || rec.lsn < end);
    assert_true(clock_us() - began < 5000000);
    WAIT_FOR(slot_now().confirmed_flush >= end);
    assert_true(spool_last_commit(fx.spool) == 0);
}

/* A server that is shut down waits until all is confirmed: it must not wait long. */
static void test_fast_shutdown_is_not_held_up(void **state)
{
    (void) state;
    start_capture();
    sql("INSERT INTO t VALUES (1, 'x')");
    take(PGO_BEGIN), take(PGO_INSERT), take(PGO_COMMIT);
    fixture_disconnect();
    stop_server("fast");
    start_server();
    fixture_connect();
    sql("INSERT INTO t VALUES (2, 'y')");
    take(PGO_BEGIN);
    struct pgo_message m = take(PGO_INSERT);
    row_is(&m.new_row, "2", "y");
    take(PGO_COMMIT);
    assert_int_equal(stats_now().reconnects, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_types),
        TEST(test_changes),
        TEST(test_unchanged_toast),
        TEST(test_origin_is_spooled),
        TEST(test_large_transaction_in_bounded_memory),
        TEST(test_latency),
        TEST(test_stop_is_quick_and_restart_goes_on),
        TEST(test_confirmed_is_synced),
        TEST(test_confirmed_is_applied),
        TEST(test_positions_of_an_idle_source),
        TEST(test_fast_shutdown_is_not_held_up),
    };
    return cmocka_run_group_tests(tests, fixture_start_cluster, fixture_stop_cluster);
}
