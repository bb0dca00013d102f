/* wire and arena: bytes from outside, and the memory for them. */
#include "base/arena.h"
#include "base/wire.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void wire_reads_what_was_put(void **state)
{
    struct strbuf sb = {0};
    (void) state;

    wire_put_u8(&sb, 0xab);
    wire_put_u16(&sb, 0x1234);
    wire_put_u32(&sb, 0xdeadbeef);
    wire_put_u64(&sb, UINT64_C(0x0123456789abcdef));
    strbuf_add(&sb, "name", 5);
    strbuf_add(&sb, "xyz", 3);
    assert_int_equal((unsigned char) sb.data[1], 0x12);

    struct wire w = wire_over(sb.data, sb.len);
    assert_int_equal(wire_u8(&w), 0xab);
    assert_int_equal(wire_u16(&w), 0x1234);
    assert_int_equal(wire_u32(&w), 0xdeadbeef);
    assert_true(wire_u64(&w) == UINT64_C(0x0123456789abcdef));
    assert_string_equal(wire_cstr(&w), "name");
    assert_int_equal(wire_left(&w), 3);
    assert_memory_equal(wire_bytes(&w, 3), "xyz", 3);
    assert_false(w.failed);
    assert_int_equal(wire_left(&w), 0);
    strbuf_release(&sb);
}

static void wire_stays_failed(void **state)
{
    struct wire w = wire_over("\x01\x02\x03", 3);
    (void) state;

    assert_int_equal(wire_u32(&w), 0);
    assert_true(w.failed);
    assert_int_equal(wire_u8(&w), 0);
    assert_int_equal(wire_left(&w), 0);
    assert_null(wire_bytes(&w, 0));
    assert_string_equal(wire_cstr(&w), "");
}

static void wire_checks_lengths(void **state)
{
    (void) state;
    struct wire w = wire_over("abc", 3); /* the NUL behind it is not ours */
    assert_string_equal(wire_cstr(&w), "");
    assert_true(w.failed);

    w = wire_over("abc", 3);
    assert_null(wire_bytes(&w, SIZE_MAX));
    assert_true(w.failed);

    w = wire_over(NULL, 0);
    assert_non_null(wire_bytes(&w, 0));
    assert_false(w.failed);
    assert_int_equal(wire_u8(&w), 0);
    assert_true(w.failed);

    w = wire_over("", 1);
    assert_string_equal(wire_cstr(&w), "");
    assert_false(w.failed);
}

static void crc_is_castagnoli(void **state)
{
    unsigned char bytes[32];
    (void) state;

    /* the check value, and RFC 3720 B.4 */
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x8a9136aa);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char) i;
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x46dd794e);
    for (size_t cut = 0; cut <= sizeof bytes; cut++)
        assert_int_equal(crc32c(crc32c(0, bytes, cut), bytes + cut, sizeof bytes - cut),
                         0x46dd794e);
    assert_int_equal(crc32c(0, NULL, 0), 0);
}

static void arena_aligns_and_copies(void **state)
{
    struct arena *a = arena_new(1 << 20);
    (void) state;

    for (size_t size = 0; size < 3000; size += 7) {
        unsigned char *p = arena_alloc(a, size);
        assert_int_equal((uintptr_t) p % 16, 0);
        memset(p, 0xee, size);
    }
    char *s = arena_strndup(a, "hello world", 5);
    int *n = arena_dup(a, &(int){42}, sizeof(int));
    arena_alloc(a, 5 << 20);
    assert_string_equal(s, "hello");
    assert_int_equal(*n, 42);
    assert_non_null(arena_dup(a, NULL, 0));
    assert_string_equal(arena_strndup(a, NULL, 0), "");
    arena_free(a);
    arena_free(NULL);
}

static void arena_counts_and_keeps_blocks(void **state)
{
    struct arena *a = arena_new(1 << 20);
    (void) state;

    void *first = arena_alloc(a, 100);
    arena_alloc(a, 28);
    assert_int_equal(arena_used(a), 128);
    arena_reset(a);
    assert_int_equal(arena_used(a), 0);
    assert_ptr_equal(arena_alloc(a, 100), first);

    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 1000; i++)
            memset(arena_alloc(a, 3000), round, 3000);
        arena_reset(a);
    }
    arena_free(a);
}

static void arena_keeps_nothing_when_told_so(void **state)
{
    struct arena *a = arena_new(0);
    (void) state;
    for (int round = 0; round < 3; round++) {
        memset(arena_alloc(a, 100000), 1, 100000);
        arena_reset(a);
    }
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire_reads_what_was_put),
        cmocka_unit_test(wire_stays_failed),
        cmocka_unit_test(wire_checks_lengths),
        cmocka_unit_test(crc_is_castagnoli),
        cmocka_unit_test(arena_aligns_and_copies),
        cmocka_unit_test(arena_counts_and_keeps_blocks),
        cmocka_unit_test(arena_keeps_nothing_when_told_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
