/* apply_take.c - records of the spool into the batch, and the batch into one transaction of the
 * target. */
#include "apply_private.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "base/wire.h"
#include "pg/facts.h"

#include <stdlib.h>

#define EPOCH_2000_US INT64_C(946684800000000) /* 2000-01-01 in Unix time */
#define MAX_TRANSACTIONS 20000

static char message_type(const struct spool_record *r)
{
    return r->kind == SPOOL_MESSAGE && r->len > 0 ? *(const char *) r->data : '\0';
}

static bool decode_here(struct apply *a, struct pgo_message *m, struct error *err)
{
    arena_reset(a->scratch);
    return pgo_decode(m, a->record.data, a->record.len, false, a->scratch, err);
}

bool record_position(struct apply *a, lsn_t *out, struct error *err)
{
    struct pgo_message m;

    *out = a->record.kind == SPOOL_POSITION ? a->record.lsn : 0;
    if (message_type(&a->record) != PGO_BEGIN)
        return true;
    if (!decode_here(a, &m, err))
        return false;
    *out = m.lsn;
    return true;
}

static bool is_full(const struct apply *a)
{
    return batch_changes(a->batch) >= (size_t) a->o.batch_changes ||
           batch_bytes(a->batch) >= (size_t) a->o.batch_bytes;
}

/* The transaction is durable on the target. */
bool committed(struct apply *a, struct error *err)
{
    const struct pending *p = &a->pending;
    struct apply_stats *s = &a->stats;

    a->committing = false;
    a->committed = p->commit_lsn;
    if (p->end_lsn > a->end)
        a->end = p->end_lsn;
    if (!FAULT("replay.after-commit", err))
        return false;
    batch_committed(a->batch, a->o.touched, a->o.changed);
    if (!FAULT("replay.touched", err))
        return false;

    pthread_mutex_lock(&a->mutex);
    s->commit_lsn = a->committed;
    s->end_lsn = a->end;
    s->commit_time_us = p->commit_time_us;
    s->batches++;
    s->redone = batch_redone(a->batch);
    s->transactions += p->transactions;
    s->inserts += p->inserts;
    s->updates += p->updates;
    s->deletes += p->deletes;
    s->truncates += p->truncates;
    s->skipped += p->skipped;
    if (p->change_lsn)
        s->last_change_lsn = p->change_lsn;
    if (p->marker > s->marker)
        s->marker = p->marker;
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
    a->pending = (struct pending){0};
    return true;
}

bool commit_pending(struct apply *a, struct error *err)
{
    struct pending *p = &a->pending;

    if (!p->any)
        return true;
    if (a->txn.open)
        BUG("commit inside a source transaction");
    if (!batch_flush(a->batch, a->pg, err) || !batch_begin(a->batch, a->pg, err) ||
        !FAULT("replay.after-apply", err) ||
        !progress_set(a->pg, a->o.run, p->commit_lsn, p->end_lsn, err) ||
        !FAULT("replay.before-commit", err))
        return false;
    a->committing = true;
    if (pg_commit(a->pg, err))
        return committed(a, err);
    if (batch_trouble(a->pg, err) == BATCH_DATA) {
        char lsn[LSN_SIZE];
        err->code = ERR_CONFLICT;
        error_push(err, "COMMIT on the target of transactions up to commit %s",
                   lsn_str(lsn, p->commit_lsn));
    }
    return false;
}

static bool take_begin(struct apply *a, struct error *err)
{
    struct pgo_message m;

    if (!decode_here(a, &m, err))
        return false;
    if (a->txn.open)
        return error_set(err, ERR_PROTOCOL, "a transaction in the spool begins inside another one");
    a->txn.open = true;
    a->txn.commit_lsn = m.lsn;
    a->txn.done = m.lsn <= a->committed;
    a->txn.own = false;
    return true;
}

static bool take_commit(struct apply *a, struct error *err)
{
    struct pgo_message m;
    struct pending *p = &a->pending;

    if (!decode_here(a, &m, err))
        return false;
    if (!a->txn.open || m.lsn != a->txn.commit_lsn)
        return error_set(err, ERR_PROTOCOL, "a COMMIT in the spool belongs to no transaction");
    a->txn.open = false;
    if (a->txn.done)
        return true;
    p->any = true;
    p->transactions++;
    p->commit_lsn = m.lsn;
    p->end_lsn = m.end_lsn;
    p->commit_time_us = m.time_us + EPOCH_2000_US;
    bool enough = a->pending.flushed || is_full(a) || p->transactions >= MAX_TRANSACTIONS;
    return !enough || commit_pending(a, err);
}

static bool take_relation(struct apply *a, struct error *err)
{
    struct pgo_message m;
    return decode_here(a, &m, err) && relations_learn(a->relations, &m, err);
}

/* Comes right after BEGIN. A change that went over must not come back. */
static bool take_origin(struct apply *a, struct error *err)
{
    struct pgo_message m;

    if (!decode_here(a, &m, err))
        return false;
    a->txn.own = origin_is_ours(a->o.run, m.name);
    return true;
}

static bool take_marker(struct apply *a, const struct relation *r, struct error *err)
{
    struct pgo_message m;

    if (!decode_here(a, &m, err))
        return false;
    if (m.type != PGO_INSERT && m.type != PGO_UPDATE)
        return true;
    if (r->run_at >= m.new_row.n || r->n_at >= m.new_row.n)
        return error_set(err, ERR_PROTOCOL, "a change of no table that was published");
    const struct pgo_value *run = &m.new_row.values[r->run_at];
    const struct pgo_value *n = &m.new_row.values[r->n_at];
    if (run->kind != 't' || n->kind != 't' || n->len == 0 || n->len > 20 ||
        run->len != strlen(a->o.run) || memcmp(run->data, a->o.run, run->len) != 0)
        return true;
    char text[24] = {0};
    memcpy(text, n->data, n->len);
    int64_t value = strtoll(text, NULL, 10);
    if (value > a->pending.marker)
        a->pending.marker = value;
    return true;
}

static void count(struct pending *p, char type)
{
    p->inserts += type == PGO_INSERT;
    p->updates += type == PGO_UPDATE;
    p->deletes += type == PGO_DELETE;
}

/* A source transaction of any size passes in parts, each flushed into the same open transaction. */
static bool take_change(struct apply *a, struct error *err)
{
    const char *data = a->record.data;
    const struct relation *r;
    struct pgo_message m;

    if (a->record.len < 5)
        return error_set(err, ERR_PROTOCOL, "a change in the spool is cut short");
    struct wire w = wire_over(data + 1, 4);
    if (!relations_find(a->relations, wire_u32(&w), &r, err))
        return false;
    if (r->kind == RELATION_MARKER)
        return take_marker(a, r, err);
    a->pending.change_lsn = a->txn.commit_lsn;
    if (r->kind == RELATION_SKIPPED) {
        a->pending.skipped++;
        return true;
    }
    struct arena *arena = batch_arena(a->batch);
    const void *copy = arena_dup(arena, a->record.data, a->record.len);
    if (!pgo_decode(&m, copy, a->record.len, false, arena, err) ||
        !batch_add(a->batch, r, &m, a->txn.commit_lsn, err))
        return false;
    count(&a->pending, data[0]);
    if (!is_full(a))
        return true;
    a->pending.flushed = true;
    return batch_flush(a->batch, a->pg, err);
}

static bool take_truncate(struct apply *a, struct error *err)
{
    const struct map_table **tables = NULL;
    struct pgo_message m;
    size_t n = 0;
    bool ok = true;

    if (!decode_here(a, &m, err))
        return false;
    tables = xcalloc(m.nrelations + 1, sizeof(*tables));
    for (uint32_t i = 0; ok && i < m.nrelations; i++) {
        const struct relation *r;
        ok = relations_find(a->relations, m.relations[i], &r, err);
        if (!ok || r->kind == RELATION_MARKER)
            continue;
        a->pending.change_lsn = a->txn.commit_lsn;
        if (r->kind == RELATION_SKIPPED)
            a->pending.skipped++;
        else
            tables[n++] = r->mt;
    }
    if (ok && n > 0) {
        a->pending.flushed = true;
        ok = batch_flush(a->batch, a->pg, err) &&
             batch_truncate(a->batch, a->pg, tables, n, m.truncate_options, a->txn.commit_lsn, err);
        a->pending.truncates++;
    }
    free(tables);
    return ok;
}

static bool take_message(struct apply *a, struct error *err)
{
    char type = message_type(&a->record);
    bool passed = a->txn.open && (a->txn.done || a->txn.own);

    switch (type) {
    case PGO_BEGIN:
        return take_begin(a, err);
    case PGO_COMMIT:
        return take_commit(a, err);
    case PGO_RELATION:
        return take_relation(a, err);
    case PGO_INSERT:
    case PGO_UPDATE:
    case PGO_DELETE:
    case PGO_TRUNCATE:
        if (passed)
            return true;
        if (!a->txn.open)
            return error_set(err, ERR_PROTOCOL, "a change in the spool belongs to no transaction");
        return type == PGO_TRUNCATE ? take_truncate(a, err) : take_change(a, err);
    case PGO_ORIGIN:
        return take_origin(a, err);
    case PGO_TYPE:
    case PGO_MESSAGE:
        return true;
    default:
        return error_set(err, ERR_PROTOCOL, "a message of type 0x%02x in the spool",
                         (unsigned) (unsigned char) type);
    }
}

static void take_position(struct apply *a)
{
    if (a->pending.any) {
        if (a->record.lsn > a->pending.end_lsn)
            a->pending.end_lsn = a->record.lsn;
        return;
    }
    if (a->record.lsn <= a->end)
        return;
    a->end = a->record.lsn;
    pthread_mutex_lock(&a->mutex);
    a->stats.end_lsn = a->end;
    pthread_mutex_unlock(&a->mutex);
}

bool take_record(struct apply *a, struct error *err)
{
    a->have = false;
    if (a->record.kind == SPOOL_MESSAGE)
        return take_message(a, err);
    take_position(a);
    return true;
}
