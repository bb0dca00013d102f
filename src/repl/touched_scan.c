/* touched_scan.c - which keys the spool has changed, by the rules of replay, applying nothing. */
#include "repl/apply.h"

#include "base/clock.h"
#include "base/wire.h"
#include "repl/batch.h"
#include "sys/stop.h"

#define GATHER_CHANGES 20000
#define GATHER_BYTES ((size_t) 16 * 1024 * 1024)
#define WAIT_MS 100

struct scan {
    struct spool *spool;
    struct spool_reader *reader;
    struct spool_record record;
    struct relations *relations;
    struct batch *batch;
    struct arena *arena;
    struct touched *out;
    lsn_t to;
    bool done;
};

static bool scan_change(struct scan *s, struct error *err)
{
    const struct spool_record *rec = &s->record;
    const struct relation *r;
    struct pgo_message m;

    if (rec->len < 5)
        return error_set(err, ERR_PROTOCOL, "a change in the spool is cut short");
    struct wire w = wire_over((const char *) rec->data + 1, 4);
    if (!relations_find(s->relations, wire_u32(&w), &r, err))
        return false;
    if (r->kind != RELATION_TABLE)
        return true;
    if (r->mt->unresolved) {
        touched_add_whole(s->out, r->mt->index);
        return true;
    }
    struct arena *arena = batch_arena(s->batch);
    const void *copy = arena_dup(arena, rec->data, rec->len);
    if (!pgo_decode(&m, copy, rec->len, false, arena, err) ||
        !batch_add(s->batch, r, &m, rec->lsn, err))
        return false;
    if (batch_changes(s->batch) >= GATHER_CHANGES || batch_bytes(s->batch) >= GATHER_BYTES)
        batch_pass(s->batch, s->out);
    return true;
}

static bool scan_truncate(struct scan *s, const struct pgo_message *m, struct error *err)
{
    for (uint32_t i = 0; i < m->nrelations; i++) {
        const struct relation *r;
        if (!relations_find(s->relations, m->relations[i], &r, err))
            return false;
        if (r->kind == RELATION_TABLE)
            touched_add_whole(s->out, r->mt->index);
    }
    return true;
}

static bool scan_message(struct scan *s, struct error *err)
{
    char type = s->record.len > 0 ? *(const char *) s->record.data : '\0';
    struct pgo_message m;

    if (type == PGO_INSERT || type == PGO_UPDATE || type == PGO_DELETE)
        return scan_change(s, err);
    arena_reset(s->arena);
    if (!pgo_decode(&m, s->record.data, s->record.len, false, s->arena, err))
        return false;
    if (m.type == PGO_BEGIN)
        s->done = m.lsn >= s->to;
    if (m.type == PGO_RELATION)
        return relations_learn(s->relations, &m, err);
    return m.type != PGO_TRUNCATE || scan_truncate(s, &m, err);
}

/* The spool's end is read first: when nothing comes after that, it was all. */
static bool scan_step(struct scan *s, struct error *err)
{
    bool complete = spool_end(s->spool) >= s->to;

    switch (spool_next(s->reader, complete ? 0 : WAIT_MS, &s->record, err)) {
    case SPOOL_GOT:
        if (s->record.kind == SPOOL_MESSAGE)
            return scan_message(s, err);
        s->done = s->record.lsn >= s->to;
        return true;
    case SPOOL_EMPTY:
        s->done = complete;
        return stop_check(err);
    default:
        return false;
    }
}

bool apply_scan_touched(struct spool *spool, const struct map *map, lsn_t to, struct touched *out,
                        struct error *err)
{
    struct scan s = {.spool = spool, .out = out, .to = to};
    bool ok = spool_reader_open(spool, 0, &s.reader, err);

    s.relations = relations_new(map, "pgcutover");
    s.batch = batch_new(map, GATHER_BYTES);
    s.arena = arena_new(GATHER_BYTES);
    while (ok && !s.done)
        ok = scan_step(&s, err);
    batch_pass(s.batch, out);
    arena_free(s.arena);
    batch_free(s.batch);
    relations_free(s.relations);
    spool_reader_close(s.reader);
    return ok;
}
