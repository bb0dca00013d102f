/* batch.c - the group: what is in it, its transaction and savepoint, and its end. */
#include "repl/batch.h"

#include "base/alloc.h"
#include "base/event.h"
#include "batch_private.h"

#include <stdlib.h>
#include <string.h>

#define TRANSIENT_TRIES 5
#define TRANSIENT_SLEEP_MS 10

struct batch *batch_new(const struct map *map, size_t keep_bytes)
{
    struct batch *b = xcalloc(1, sizeof *b);
    b->map = map;
    b->arena = arena_new(keep_bytes);
    b->keys.arena = arena_new(keep_bytes);
    b->tables = xcalloc(map->ntables + 1, sizeof(*b->tables));
    b->epoch = 1;
    return b;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->map->ntables; i++)
        table_free(b->tables[i]);
    for (size_t i = 0; i < b->capparams; i++)
        strbuf_release(&b->arrays[i]);
    arena_free(b->arena);
    arena_free(b->keys.arena);
    free(b->keys.whole);
    free(b->tables);
    free(b->slots);
    free(b->arrays);
    free(b->params);
    free(b->values);
    free(b->lens);
    free(b);
}

struct arena *batch_arena(struct batch *b)
{
    return b->arena;
}

size_t batch_changes(const struct batch *b)
{
    return b->nchanges;
}

size_t batch_bytes(const struct batch *b)
{
    return arena_used(b->arena);
}

int64_t batch_redone(const struct batch *b)
{
    return b->redone;
}

struct table *batch_table(struct batch *b, const struct map_table *mt)
{
    struct table *t = b->tables[mt->index];

    if (t)
        return t;
    t = b->tables[mt->index] = xcalloc(1, sizeof *t);
    t->mt = mt;
    t->key_columns = xcalloc(mt->nsource + 1, sizeof *t->key_columns);
    for (size_t i = 0; i < mt->nsource_key; i++)
        t->key_columns[mt->source_key[i]] = true;
    return t;
}

static struct table *enter_group(struct batch *b, const struct map_table *mt)
{
    struct table *t = batch_table(b, mt);

    if (t->in_group)
        return t;
    t->in_group = true;
    t->next = NULL;
    t->steps = t->last = NULL;
    if (b->last_table)
        b->last_table->next = t;
    else
        b->first_table = t;
    b->last_table = t;
    return t;
}

static void append(struct batch *b, struct change *c)
{
    if (b->last)
        b->last->next = c;
    else
        b->first = c;
    b->last = c;
    b->nchanges++;
}

static struct step *new_step(struct batch *b, struct table *t)
{
    struct step *s = arena_alloc(b->arena, sizeof *s);

    *s = (struct step){0};
    if (t->last)
        t->last->next = s;
    else
        t->steps = s;
    t->last = s;
    return s;
}

static void add_single(struct batch *b, struct table *t, struct change *c)
{
    struct step *s = t->last;
    bool keyed = t->mt->nsource_key > 0;

    if (!s || (keyed ? !s->singles : images_have(s, t->mt, c->old)))
        s = new_step(b, t);
    if (!keyed && c->op == OP_UPDATE)
        images_add(b, s, t->mt, c->row);
    if (s->last_single)
        s->last_single->next_single = c;
    else
        s->singles = c;
    s->last_single = c;
}

/* A set of rows cannot be bound when there are no columns. */
static bool fits_a_set(const struct change *c)
{
    const struct map_table *mt = c->table->mt;
    if (mt->nsource == 0 || c->op == OP_REKEY)
        return false;
    return mt->nsource_key > 0 || c->op == OP_INSERT;
}

bool batch_add(struct batch *b, const struct relation *r, const struct pgo_message *m,
               lsn_t commit_lsn, struct error *err)
{
    if (r->mt->unresolved)
        return conflict_unresolved(r->mt, commit_lsn, err);
    struct change *c = arena_alloc(b->arena, sizeof *c);
    *c = (struct change){.commit_lsn = commit_lsn};
    if (!change_fill(b, c, r, m, err))
        return false;
    c->table = enter_group(b, r->mt);
    append(b, c);
    if (!fits_a_set(c)) {
        add_single(b, c->table, c);
        return true;
    }
    bool keyed = r->mt->nsource_key > 0;
    if (!c->table->last || (keyed && c->table->last->singles))
        new_step(b, c->table);
    if (!keyed)
        images_add(b, c->table->last, r->mt, c->row);
    row_apply(b, c->table, c);
    return true;
}

void batch_reset_group(struct batch *b)
{
    for (struct table *t = b->first_table; t; t = t->next)
        t->in_group = false;
    b->first_table = b->last_table = NULL;
    b->first = b->last = NULL;
    b->nchanges = 0;
    b->odd = false;
    rows_forget(b);
    arena_reset(b->arena);
}

bool batch_begin(struct batch *b, struct pg *pg, struct error *err)
{
    if (b->open)
        return true;
    b->saved = false;
    b->open = pg_begin(pg, "", err);
    return b->open;
}

/* One round trip, and never more than one level of subtransactions. */
static bool save(struct batch *b, struct pg *pg, struct error *err)
{
    const char *sql = !b->open   ? "BEGIN; SAVEPOINT pgcutover"
                      : b->saved ? "RELEASE SAVEPOINT pgcutover; SAVEPOINT pgcutover"
                                 : "SAVEPOINT pgcutover";
    if (!pg_exec(pg, sql, err))
        return false;
    b->open = b->saved = true;
    return true;
}

static bool go_back(struct pg *pg, struct error *err)
{
    struct error again = {0};

    if (pg_exec(pg, "ROLLBACK TO SAVEPOINT pgcutover", &again))
        return true;
    *err = again;
    return false;
}

static bool run_group(struct batch *b, struct pg *pg, struct error *err)
{
    for (int tries = 0; !b->odd; tries++) {
        if (sets_run(b, pg, err))
            return true;
        /* a conflict in a set may come of its order only */
        enum batch_trouble trouble =
            err->code == ERR_CONFLICT ? BATCH_DATA : batch_trouble(pg, err);
        bool cancelled = strcmp(err->sqlstate, "57014") == 0;
        if (trouble == BATCH_LOST || trouble == BATCH_SERVER || cancelled || !go_back(pg, err))
            return false;
        if (trouble == BATCH_DATA)
            break;
        if (tries == TRANSIENT_TRIES)
            return false;
        clock_sleep_ms(TRANSIENT_SLEEP_MS << tries);
    }
    error_clear(err);
    b->redone++;
    return redo_run(b, pg, err);
}

bool batch_flush(struct batch *b, struct pg *pg, struct error *err)
{
    if (b->nchanges == 0)
        return true;
    if (!save(b, pg, err) || !run_group(b, pg, err))
        return false;
    keys_gather(b);
    batch_reset_group(b);
    return true;
}

/* Every table whose rows go there is in the list. */
static bool all_sent(const struct batch *b, const struct cat_table *target,
                     const struct map_table *const *tables, size_t n)
{
    for (size_t i = 0; i < b->map->ntables; i++) {
        bool sent = b->map->tables[i].target != target || b->map->tables[i].skipped;
        for (size_t k = 0; !sent && k < n; k++)
            sent = tables[k] == &b->map->tables[i];
        if (!sent)
            return false;
    }
    return true;
}

/* NULL: other tables' rows are there as well. A partition of ours is emptied as the partition that
 * it is there; what isn't one may have its rows in any partition of the target. */
static const struct cat_table *truncated(const struct batch *b, const struct map_table *mt,
                                         const struct map_table *const *tables, size_t n)
{
    if (mt->shared || !mt->target)
        return NULL;
    if (mt->source->is_partition && mt->target_leaf && mt->target_leaf->is_partition)
        return mt->target_leaf;
    return all_sent(b, mt->target, tables, n) ? mt->target : NULL;
}

/* A partitioned table has no rows of its own and takes no ONLY. */
static const char *only(const struct cat_table *t)
{
    return t->relkind == 'p' ? "" : "ONLY ";
}

/* Green may have foreign keys that blue doesn't, and TRUNCATE minds them in any role: DELETE
 * doesn't in this one, and whether the rows keep to them is for the constraint checks to say. */
static bool truncate_or_delete(struct batch *b, struct pg *pg, const struct strbuf *truncate,
                               const struct strbuf *delete, const struct map_table *first,
                               struct error *err)
{
    char message[sizeof err->message];

    if (!save(b, pg, err))
        return false;
    if (pg_exec(pg, strbuf_cstr(truncate), err))
        return true;
    if (strcmp(err->sqlstate, "0A000") != 0 || !go_back(pg, err))
        return false;
    memcpy(message, err->message, sizeof message);
    error_clear(err);
    if (!pg_exec(pg, strbuf_cstr(delete), err))
        return false;
    if (!b->told_delete)
        event_info("TRUNCATE of %s.%s is carried out as DELETE, also from now on: %s",
                   first->source->schema, first->source->name, message);
    b->told_delete = true;
    return true;
}

/* The source sends every table that its CASCADE reached, so the list is all there is to truncate.
 */
bool batch_truncate(struct batch *b, struct pg *pg, const struct map_table *const *tables, size_t n,
                    uint8_t options, lsn_t commit_lsn, struct error *err)
{
    struct strbuf truncate = {0}, delete = {0};
    bool ok = true;

    if (b->nchanges > 0)
        BUG("TRUNCATE in a group of %zu changes", b->nchanges);
    for (size_t i = 0; ok && i < n; i++) {
        const struct cat_table *target = truncated(b, tables[i], tables, n);
        if (tables[i]->unresolved) {
            ok = conflict_unresolved(tables[i], commit_lsn, err);
        } else if (!target) {
            ok = conflict_truncate(tables[i], commit_lsn, err);
        } else {
            strbuf_addf(&truncate, "%s %s%s", i > 0 ? "," : "TRUNCATE TABLE", only(target),
                        target->sql_name);
            strbuf_addf(&delete, "DELETE FROM %s%s;", only(target), target->sql_name);
        }
        keys_whole(b, batch_table(b, tables[i]));
    }
    if (options & 2)
        strbuf_addstr(&truncate, " RESTART IDENTITY"); /* DELETE needs nothing: the fence carries
                                                          sequences over */
    ok = ok && truncate_or_delete(b, pg, &truncate, &delete, tables[0], err);
    if (!ok && n > 0 && batch_trouble(pg, err) == BATCH_DATA) {
        char lsn[LSN_SIZE];
        err->code = ERR_CONFLICT;
        error_push(err, "TRUNCATE of %s.%s%s at commit %s", tables[0]->source->schema,
                   tables[0]->source->name, n > 1 ? " and others" : "", lsn_str(lsn, commit_lsn));
        conflict_hint(err);
    }
    strbuf_release(&truncate);
    strbuf_release(&delete);
    return ok;
}

void batch_pass(struct batch *b, struct touched *touched)
{
    keys_gather(b);
    batch_reset_group(b);
    keys_hand_over(b, touched, NULL);
}

void batch_committed(struct batch *b, struct touched *touched, struct touched *changed)
{
    keys_hand_over(b, touched, changed);
    b->open = b->saved = false;
}

void batch_rolled_back(struct batch *b)
{
    keys_forget(b);
    batch_reset_group(b);
    b->open = b->saved = false;
}

static bool starts(const char *state, const char *class)
{
    return strncmp(state, class, strlen(class)) == 0;
}

enum batch_trouble batch_trouble(const struct pg *pg, const struct error *err)
{
    const char *state = err->sqlstate;

    if (pg_is_bad(pg) || err->code == ERR_CONNECT || starts(state, "08") || starts(state, "57P0"))
        return BATCH_LOST;
    if (err->code != ERR_SQL)
        return BATCH_SERVER;
    if (starts(state, "40") || starts(state, "57014") || starts(state, "55P03") ||
        starts(state, "55006"))
        return BATCH_TRANSIENT;
    /* 23 is the data; 25, 53, 58, F0, XX are the server's own troubles */
    if (starts(state, "25") || starts(state, "53") || starts(state, "57") || starts(state, "58") ||
        starts(state, "F0") || starts(state, "XX") || state[0] == '\0')
        return BATCH_SERVER;
    return BATCH_DATA;
}
