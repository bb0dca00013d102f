/*
 * Any bytes as a pgoutput message: refused, or decoded into a struct whose every pointer can be
 * read.
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=c11 -D_GNU_SOURCE -iquote include \
 *         tests/fuzz/fuzz_pgoutput.c src/repl/pgoutput.c src/base/?*.c -pthread -o
 * /tmp/fuzz_pgoutput
 */
#include "repl/pgoutput.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t sum;

static void touch(const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        sum += p[i];
}

static void touch_tuple(const struct pgo_tuple *t)
{
    if (t->n > PGO_MAX_COLUMNS)
        abort();
    for (uint16_t i = 0; i < t->n; i++)
        touch(t->values[i].data, t->values[i].len);
}

static void touch_message(const struct pgo_message *m)
{
    touch(m->schema, strlen(m->schema));
    touch(m->name, strlen(m->name));
    touch(m->content, m->content_len);
    touch_tuple(&m->old_row);
    touch_tuple(&m->new_row);
    for (uint16_t i = 0; i < m->ncolumns; i++)
        touch(m->columns[i].name, strlen(m->columns[i].name));
    for (uint32_t i = 0; i < m->nrelations; i++)
        sum += m->relations[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_new(1 << 16);
    struct pgo_message m;
    struct error err = {0};

    for (int in_stream = 0; in_stream < 2; in_stream++) {
        arena_reset(arena);
        if (pgo_decode(&m, data, size, in_stream != 0, arena, &err))
            touch_message(&m);
        else if (err.code != ERR_PROTOCOL)
            abort();
        /* what a message makes us allocate is in proportion to it */
        if (arena_used(arena) > size * sizeof(struct pgo_column) + 64)
            abort();
    }
    arena_free(arena);
    return 0;
}
