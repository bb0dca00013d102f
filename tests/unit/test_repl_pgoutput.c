/* The decoder against messages written by hand from the manual's tables, and every way of cutting
 * them short. */
#include "base/wire.h"
#include "repl/pgoutput.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct strbuf msg;
static struct arena *arena;
static struct pgo_message m;
static struct error err;

static int setup(void **state)
{
    (void) state;
    strbuf_reset(&msg);
    error_clear(&err);
    arena = arena_new(4096);
    return 0;
}

static int teardown(void **state)
{
    (void) state;
    arena_free(arena);
    strbuf_release(&msg);
    return 0;
}

static void u8(unsigned v)
{
    wire_put_u8(&msg, (uint8_t) v);
}

static void u16(unsigned v)
{
    wire_put_u16(&msg, (uint16_t) v);
}

static void u32(uint32_t v)
{
    wire_put_u32(&msg, v);
}

static void u64(uint64_t v)
{
    wire_put_u64(&msg, v);
}

static void cstr(const char *s)
{
    strbuf_add(&msg, s, strlen(s) + 1);
}

static void value(char kind, const char *text)
{
    u8((unsigned char) kind);
    if (text) {
        u32((uint32_t) strlen(text));
        strbuf_addstr(&msg, text);
    }
}

/* A copy of exact size, so that the sanitizer sees a byte read past the end. */
static bool decode_len(size_t len, bool in_stream)
{
    char *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, msg.data, len);
    bool ok = pgo_decode(&m, copy, len, in_stream, arena, &err);
    free(copy);
    return ok;
}

/* The whole is right; each prefix, and the whole with a byte more, is refused. */
static void decode_and_cut(bool in_stream)
{
    for (size_t len = 0; len < msg.len; len++) {
        error_clear(&err);
        assert_false(decode_len(len, in_stream));
        assert_int_equal(err.code, ERR_PROTOCOL);
    }
    size_t whole = msg.len;
    u8(0);
    assert_false(decode_len(msg.len, in_stream));
    msg.len = whole;
    error_clear(&err);
    if (!pgo_decode(&m, msg.data, msg.len, in_stream, arena, &err))
        fail_msg("%s", err.message);
}

static void test_begin_and_commit(void **state)
{
    (void) state;
    u8('B'), u64(0x1122334455667788), u64(42), u32(777);
    decode_and_cut(false);
    assert_int_equal(m.type, PGO_BEGIN);
    assert_true(m.lsn == 0x1122334455667788 && m.time_us == 42 && m.xid == 777);

    strbuf_reset(&msg);
    u8('C'), u8(0), u64(100), u64(200), u64((uint64_t) -5);
    decode_and_cut(false);
    assert_int_equal(m.type, PGO_COMMIT);
    assert_true(m.lsn == 100 && m.end_lsn == 200 && m.time_us == -5);
}

static void test_relation(void **state)
{
    (void) state;
    u8('R'), u32(16384), cstr("Select"),
        cstr("Gr\xc3\xb6\xc3\x9f"
             "e"),
        u8('f'), u16(2);
    u8(1), cstr("id"), u32(20), u32((uint32_t) -1);
    u8(0), cstr(""), u32(1043), u32(14);
    decode_and_cut(false);
    assert_int_equal(m.relation, 16384);
    assert_string_equal(m.schema, "Select");
    assert_int_equal(m.identity, 'f');
    assert_int_equal(m.ncolumns, 2);
    assert_true(m.columns[0].key && !m.columns[1].key);
    assert_string_equal(m.columns[0].name, "id");
    assert_int_equal(m.columns[0].typmod, -1);
    assert_int_equal(m.columns[1].type, 1043);
    assert_int_equal(m.columns[1].typmod, 14);
}

static void test_relation_without_columns_in_pg_catalog(void **state)
{
    (void) state;
    u8('R'), u32(1), cstr(""), cstr("t"), u8('d'), u16(0);
    decode_and_cut(false);
    assert_string_equal(m.schema, "pg_catalog");
    assert_int_equal(m.ncolumns, 0);
}

static void test_insert(void **state)
{
    (void) state;
    u8('I'), u32(5), u8('N'), u16(4);
    value('n', NULL), value('t', "abc"), value('t', ""), value('b', "xy");
    decode_and_cut(false);
    assert_int_equal(m.relation, 5);
    assert_int_equal(m.old_kind, 0);
    assert_int_equal(m.new_row.n, 4);
    assert_int_equal(m.new_row.values[0].kind, 'n');
    assert_null(m.new_row.values[0].data);
    assert_int_equal(m.new_row.values[1].len, 3);
    assert_memory_equal(m.new_row.values[1].data, "abc", 3);
    assert_non_null(m.new_row.values[2].data);
    assert_int_equal(m.new_row.values[2].len, 0);
    assert_int_equal(m.new_row.values[3].kind, 'b');
}

static void test_update(void **state)
{
    (void) state;
    u8('U'), u32(5), u8('N'), u16(2), value('t', "1"), value('u', NULL);
    decode_and_cut(false);
    assert_int_equal(m.old_kind, 0);
    assert_int_equal(m.new_row.values[1].kind, 'u');

    for (const char *kind = "KO"; *kind; kind++) {
        strbuf_reset(&msg);
        u8('U'), u32(5), u8((unsigned char) *kind), u16(2), value('t', "1"), value('n', NULL);
        u8('N'), u16(2), value('t', "2"), value('u', NULL);
        decode_and_cut(false);
        assert_int_equal(m.old_kind, *kind);
        assert_memory_equal(m.old_row.values[0].data, "1", 1);
        assert_memory_equal(m.new_row.values[0].data, "2", 1);
    }
}

static void test_delete(void **state)
{
    (void) state;
    u8('D'), u32(5), u8('K'), u16(1), value('t', "9");
    decode_and_cut(false);
    assert_int_equal(m.old_kind, 'K');
    assert_int_equal(m.old_row.n, 1);
    assert_int_equal(m.new_row.n, 0);

    strbuf_reset(&msg);
    u8('D'), u32(5), u8('N'), u16(1), value('t', "9");
    assert_false(decode_len(msg.len, false));
}

static void test_truncate(void **state)
{
    (void) state;
    u8('T'), u32(2), u8(3), u32(10), u32(11);
    decode_and_cut(false);
    assert_int_equal(m.nrelations, 2);
    assert_int_equal(m.truncate_options, 3);
    assert_int_equal(m.relations[0], 10);
    assert_int_equal(m.relations[1], 11);
}

static void test_origin_type_message(void **state)
{
    (void) state;
    u8('O'), u64(9), cstr("pgcutover_x");
    decode_and_cut(false);
    assert_true(m.lsn == 9);
    assert_string_equal(m.name, "pgcutover_x");

    strbuf_reset(&msg);
    u8('Y'), u32(33), cstr("app"), cstr("mood");
    decode_and_cut(false);
    assert_int_equal(m.relation, 33);
    assert_string_equal(m.schema, "app");

    strbuf_reset(&msg);
    u8('M'), u8(1), u64(7), cstr("prefix"), u32(3), strbuf_addstr(&msg, "\x01\x02\x03");
    decode_and_cut(false);
    assert_true(m.transactional && m.lsn == 7 && m.content_len == 3);
    assert_string_equal(m.name, "prefix");
}

static void test_streaming(void **state)
{
    (void) state;
    u8('S'), u32(600), u8(1);
    decode_and_cut(false);
    assert_int_equal(m.xid, 600);

    strbuf_reset(&msg);
    u8('I'), u32(601), u32(5), u8('N'), u16(1), value('n', NULL);
    decode_and_cut(true);
    assert_int_equal(m.xid, 601);
    assert_int_equal(m.relation, 5);

    strbuf_reset(&msg);
    u8('E');
    decode_and_cut(true);

    strbuf_reset(&msg);
    u8('c'), u32(600), u8(0), u64(1), u64(2), u64(3);
    decode_and_cut(false);
    assert_true(m.xid == 600 && m.lsn == 1 && m.end_lsn == 2);

    strbuf_reset(&msg);
    u8('A'), u32(600), u32(602), u64(8), u64(9); /* version 4 */
    assert_true(decode_len(msg.len, false));
    assert_true(m.subxid == 602 && m.lsn == 8 && m.time_us == 9);
    assert_true(decode_len(9, false)); /* earlier ones */
    assert_false(decode_len(10, false));
}

static void test_two_phase(void **state)
{
    (void) state;
    for (const char *type = "bPKrp"; *type; type++) {
        strbuf_reset(&msg);
        u8((unsigned char) *type);
        if (*type != 'b')
            u8(0);
        u64(1), u64(2), u64(3);
        if (*type == 'r')
            u64(4);
        u32(700), cstr("gid");
        decode_and_cut(false);
        assert_true(m.lsn == 1 && m.end_lsn == 2 && m.time_us == 3 && m.xid == 700);
        assert_string_equal(m.name, "gid");
    }
}

static void test_ceilings(void **state)
{
    (void) state;
    u8('I'), u32(5), u8('N'), u16(PGO_MAX_COLUMNS);
    for (int i = 0; i < PGO_MAX_COLUMNS; i++)
        value('n', NULL);
    assert_true(decode_len(msg.len, false));

    strbuf_reset(&msg);
    u8('I'), u32(5), u8('N'), u16(PGO_MAX_COLUMNS + 1);
    for (int i = 0; i <= PGO_MAX_COLUMNS; i++)
        value('n', NULL);
    assert_false(decode_len(msg.len, false));

    /* counts and lengths that the message can't hold are refused before anything is allocated */
    size_t used = arena_used(arena);
    strbuf_reset(&msg);
    u8('T'), u32(0xffffffff), u8(0), u32(1);
    assert_false(decode_len(msg.len, false));
    strbuf_reset(&msg);
    u8('R'), u32(1), cstr("s"), cstr("t"), u8('d'), u16(1600), u8(0);
    assert_false(decode_len(msg.len, false));
    strbuf_reset(&msg);
    u8('I'), u32(5), u8('N'), u16(1000), value('n', NULL);
    assert_false(decode_len(msg.len, false));
    assert_true(arena_used(arena) == used);

    strbuf_reset(&msg);
    u8('I'), u32(5), u8('N'), u16(1), u8('t'), u32(0xfffffff0), u8('x');
    assert_false(decode_len(msg.len, false));
}

static void test_nonsense(void **state)
{
    (void) state;
    assert_false(pgo_decode(&m, NULL, 0, false, arena, &err));
    for (unsigned type = 0; type < 256; type++) {
        strbuf_reset(&msg);
        u8(type);
        bool ok = decode_len(1, false);
        assert_true(ok == (type == 'E'));
    }
    strbuf_reset(&msg);
    u8('I'), u32(5), u8('N'), u16(1), u8('z');
    assert_false(decode_len(msg.len, false));
    assert_int_equal(err.code, ERR_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_begin_and_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_relation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_relation_without_columns_in_pg_catalog, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_insert, setup, teardown),
        cmocka_unit_test_setup_teardown(test_update, setup, teardown),
        cmocka_unit_test_setup_teardown(test_delete, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_origin_type_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_streaming, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_phase, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ceilings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
