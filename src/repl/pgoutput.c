#include "repl/pgoutput.h"

#include "base/wire.h"

static bool bad(struct error *err, const char *what)
{
    return error_set(err, ERR_PROTOCOL, "pgoutput message is malformed: %s", what);
}

/* "Namespace (empty string for pg_catalog)" */
static const char *namespace(struct wire *w)
{
    const char *s = wire_cstr(w);
    return *s ? s : "pg_catalog";
}

static bool decode_value(struct wire *w, struct pgo_value *v, struct error *err)
{
    *v = (struct pgo_value){.kind = (char) wire_u8(w)};
    switch (v->kind) {
    case 'n':
    case 'u':
        return true;
    case 't':
    case 'b':
        v->len = wire_u32(w);
        v->data = (const char *) wire_bytes(w, v->len);
        return !w->failed || bad(err, "a value is longer than the message");
    default:
        return bad(err, w->failed ? "fewer values than columns" : "unknown kind of value");
    }
}

/* A value takes a byte at the least, so the count is bounded by what is left before anything is
 * allocated. */
static bool decode_tuple(struct wire *w, struct pgo_tuple *t, struct arena *arena,
                         struct error *err)
{
    t->n = wire_u16(w);
    if (w->failed || t->n > PGO_MAX_COLUMNS || t->n > wire_left(w))
        return bad(err, "more columns than a row can have");
    t->values = arena_alloc(arena, t->n * sizeof *t->values);
    for (uint16_t i = 0; i < t->n; i++)
        if (!decode_value(w, &t->values[i], err))
            return false;
    return true;
}

/* An attribute takes ten bytes at the least: flags, the name's NUL, type and modifier. */
static bool decode_relation(struct wire *w, struct pgo_message *m, struct arena *arena,
                            struct error *err)
{
    m->relation = wire_u32(w);
    m->schema = namespace(w);
    m->name = wire_cstr(w);
    m->identity = (char) wire_u8(w);
    m->ncolumns = wire_u16(w);
    if (w->failed || m->ncolumns > PGO_MAX_COLUMNS || m->ncolumns > wire_left(w) / 10)
        return bad(err, "more columns than a table can have");
    m->columns = arena_alloc(arena, m->ncolumns * sizeof *m->columns);
    for (uint16_t i = 0; i < m->ncolumns; i++) {
        struct pgo_column *c = &m->columns[i];
        c->key = (wire_u8(w) & 1) != 0;
        c->name = wire_cstr(w);
        c->type = wire_u32(w);
        c->typmod = (int32_t) wire_u32(w);
    }
    return true;
}

/* The old row ('K' or 'O'), when the message has one, then the new row, where one is due. */
static bool decode_change(struct wire *w, struct pgo_message *m, struct arena *arena,
                          struct error *err)
{
    m->relation = wire_u32(w);
    char kind = (char) wire_u8(w);
    if (m->type != PGO_INSERT && (kind == 'K' || kind == 'O')) {
        m->old_kind = kind;
        if (!decode_tuple(w, &m->old_row, arena, err))
            return false;
        if (m->type == PGO_DELETE)
            return true;
        kind = (char) wire_u8(w);
    }
    if (m->type == PGO_DELETE || kind != 'N')
        return bad(err, "unknown kind of row");
    return decode_tuple(w, &m->new_row, arena, err);
}

static bool decode_truncate(struct wire *w, struct pgo_message *m, struct arena *arena,
                            struct error *err)
{
    m->nrelations = wire_u32(w);
    m->truncate_options = wire_u8(w);
    if (w->failed || m->nrelations > wire_left(w) / 4)
        return bad(err, "more relations than the message can hold");
    m->relations = arena_alloc(arena, m->nrelations * sizeof *m->relations);
    for (uint32_t i = 0; i < m->nrelations; i++)
        m->relations[i] = wire_u32(w);
    return true;
}

static void decode_begin(struct wire *w, struct pgo_message *m)
{
    m->lsn = wire_u64(w);
    m->time_us = (int64_t) wire_u64(w);
    m->xid = wire_u32(w);
}

static void decode_commit(struct wire *w, struct pgo_message *m)
{
    wire_u8(w); /* flags, unused */
    m->lsn = wire_u64(w);
    m->end_lsn = wire_u64(w);
    m->time_us = (int64_t) wire_u64(w);
}

static void decode_logical_message(struct wire *w, struct pgo_message *m)
{
    m->transactional = (wire_u8(w) & 1) != 0;
    m->lsn = wire_u64(w);
    m->name = wire_cstr(w);
    m->content_len = wire_u32(w);
    m->content = (const char *) wire_bytes(w, m->content_len);
}

/* Version 4 adds the abort's LSN and time, when the subscriber applies streams in parallel. */
static void decode_stream_abort(struct wire *w, struct pgo_message *m)
{
    m->xid = wire_u32(w);
    m->subxid = wire_u32(w);
    if (wire_left(w) > 0) {
        m->lsn = wire_u64(w);
        m->time_us = (int64_t) wire_u64(w);
    }
}

static void decode_two_phase(struct wire *w, struct pgo_message *m)
{
    if (m->type != PGO_BEGIN_PREPARE)
        wire_u8(w); /* flags, unused */
    m->lsn = wire_u64(w);
    m->end_lsn = wire_u64(w);
    m->time_us = (int64_t) wire_u64(w);
    if (m->type == PGO_ROLLBACK_PREPARED)
        wire_u64(w); /* when it was rolled back */
    m->xid = wire_u32(w);
    m->name = wire_cstr(w);
}

static bool carries_xid(enum pgo_type type)
{
    switch (type) {
    case PGO_RELATION:
    case PGO_TYPE:
    case PGO_INSERT:
    case PGO_UPDATE:
    case PGO_DELETE:
    case PGO_TRUNCATE:
    case PGO_MESSAGE:
        return true;
    default:
        return false;
    }
}

static bool decode_body(struct wire *w, struct pgo_message *m, struct arena *arena,
                        struct error *err)
{
    switch (m->type) {
    case PGO_BEGIN:
        decode_begin(w, m);
        return true;
    case PGO_COMMIT:
        decode_commit(w, m);
        return true;
    case PGO_ORIGIN:
        m->lsn = wire_u64(w);
        m->name = wire_cstr(w);
        return true;
    case PGO_RELATION:
        return decode_relation(w, m, arena, err);
    case PGO_TYPE:
        m->relation = wire_u32(w);
        m->schema = namespace(w);
        m->name = wire_cstr(w);
        return true;
    case PGO_INSERT:
    case PGO_UPDATE:
    case PGO_DELETE:
        return decode_change(w, m, arena, err);
    case PGO_TRUNCATE:
        return decode_truncate(w, m, arena, err);
    case PGO_MESSAGE:
        decode_logical_message(w, m);
        return true;
    case PGO_STREAM_START:
        m->xid = wire_u32(w);
        wire_u8(w); /* 1 for the first segment */
        return true;
    case PGO_STREAM_STOP:
        return true;
    case PGO_STREAM_COMMIT:
        m->xid = wire_u32(w);
        decode_commit(w, m);
        return true;
    case PGO_STREAM_ABORT:
        decode_stream_abort(w, m);
        return true;
    case PGO_BEGIN_PREPARE:
    case PGO_PREPARE:
    case PGO_COMMIT_PREPARED:
    case PGO_ROLLBACK_PREPARED:
    case PGO_STREAM_PREPARE:
        decode_two_phase(w, m);
        return true;
    }
    return bad(err, "unknown type");
}

bool pgo_decode(struct pgo_message *out, const void *data, size_t len, bool in_stream,
                struct arena *arena, struct error *err)
{
    struct wire w = wire_over(data, len);
    uint8_t type = wire_u8(&w);

    *out = (struct pgo_message){.type = (enum pgo_type) type, .schema = "", .name = ""};
    if (w.failed)
        return bad(err, "it is empty");
    if (in_stream && carries_xid(out->type))
        out->xid = wire_u32(&w);
    if (!decode_body(&w, out, arena, err))
        return error_detail(err, "message type 0x%02x, %zu bytes", type, len);
    if (w.failed)
        bad(err, "it ends too early");
    else if (wire_left(&w) > 0)
        bad(err, "bytes are left over");
    else
        return true;
    return error_detail(err, "message type 0x%02x, %zu bytes", type, len);
}
