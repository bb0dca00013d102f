/*
 * constraint_changed.c - the checks for the keys that replay changed since they were made in full.
 *
 * Whatever violates a constraint now and didn't then has a changed row in it: a new child, a parent
 * that went away, one of several equal rows. Keys go through the map as they do for the tail; rows
 * are found by index.
 */
#include "constraints.h"
#include "private.h"

#include "map/project.h"

#include <stdlib.h>
#include <string.h>

#define BATCH_KEYS 2000

struct run {
    const struct constraint_check *check;
    const struct map *map;
    struct touched *changed;
    struct vsession s; /* target alone, and what is bound */
    bool free_planner;
    char *found; /* text of violating rows, or NULL */
};

/* Its rows may be in t: the table itself, its partition, its root. */
static bool reaches(const struct map_table *mt, const struct cat_table *t)
{
    return !mt->skipped && mt->target &&
           (mt->target->oid == t->oid || mt->target->root == t->oid || mt->target->oid == t->root);
}

/* The column of the map's key that the foreign key's column number k refers to, or -1. */
static int referred_key(const struct constraint_check *c, const struct map_table *mt, size_t k)
{
    const char *name = cat_column_num(c->ref_table, c->fkey->ref_columns[k])->name;

    for (size_t i = 0; i < mt->nkey; i++)
        if (strcmp(mt->columns[mt->key[i]].target->name, name) == 0)
            return mt->key[i];
    return -1;
}

static bool refers_to_key(const struct constraint_check *c, const struct map_table *mt)
{
    for (size_t k = 0; k < c->fkey->ncolumns; k++)
        if (referred_key(c, mt, k) < 0)
            return false;
    return true;
}

/* Keys of its own rows, and of those that they refer to; *full: keys can't tell. */
static size_t changed_for(const struct constraint_check *c, const struct map *map,
                          struct touched *changed, bool *full)
{
    size_t keys = 0;

    *full = false;
    for (size_t i = 0; i < map->ntables; i++) {
        const struct map_table *mt = &map->tables[i];
        bool own = reaches(mt, c->table), parent = c->fkey && reaches(mt, c->ref_table);
        size_t n = own || parent ? touched_count_table(changed, i) : 0;

        if (!own && !parent)
            continue;
        keys += n;
        if (touched_whole(changed, i, false) || (n && own && mt->nkey == 0) ||
            (n && parent && !refers_to_key(c, mt)))
            *full = true;
    }
    return keys;
}

void constraint_checks_backlog(const struct constraint_checks *c, const struct map *map,
                               struct touched *changed, struct constraint_backlog *out)
{
    *out = (struct constraint_backlog){0};
    for (size_t i = 0; changed && i < map->ntables; i++) {
        bool concerned = false;
        for (size_t k = 0; k < c->n && !concerned; k++)
            concerned = reaches(&map->tables[i], c->items[k].table) ||
                        (c->items[k].fkey && reaches(&map->tables[i], c->items[k].ref_table));
        if (concerned)
            out->keys += touched_count_table(changed, i);
    }
    for (size_t k = 0; changed && k < c->n; k++) {
        bool full;
        changed_for(&c->items[k], map, changed, &full);
        out->full += full;
    }
}

const char *constraint_check_costly(const struct constraint_check *c, const struct map *map)
{
    bool parents = false;

    if (c->impossible)
        return NULL;
    for (size_t i = 0; i < map->ntables; i++) {
        const struct map_table *mt = &map->tables[i];
        if (reaches(mt, c->table) && mt->nkey == 0)
            return "a table without a key feeds it, so each of its changes needs the whole check";
        if (!c->fkey || !reaches(mt, c->ref_table))
            continue;
        parents = true;
        if (!refers_to_key(c, mt))
            return "it refers to other columns than the key, so each change of the table that it "
                   "refers to needs the whole check";
    }
    if (parents && !c->indexed)
        return "no index of its table finds the rows that refer to a deleted one: all of it is "
               "read then";
    return NULL;
}

/*
 * By index, row by row: the reasons are in session.c. With no index to find children by, the
 * planner is free: the arrays are short then, and it is told so by custom plans.
 */
static bool plan(struct run *r, bool freely, struct error *err)
{
    if (r->free_planner == freely)
        return true;
    r->free_planner = freely;
    return pg_exec(r->s.target,
                   freely ? "SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_hashjoin TO "
                            "DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT; SET LOCAL "
                            "enable_material TO DEFAULT; SET LOCAL plan_cache_mode TO DEFAULT; "
                            "SET LOCAL max_parallel_workers_per_gather TO DEFAULT"
                          : "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET "
                            "LOCAL enable_mergejoin = off; SET LOCAL enable_material = off; SET "
                            "LOCAL plan_cache_mode = force_generic_plan; SET LOCAL "
                            "max_parallel_workers_per_gather = 0",
                   err);
}

/* Runs sql with these keys; what it finds are violations. */
static bool look(struct run *r, const char *sql, const struct vblock *keys, struct error *err)
{
    PGresult *res = NULL;
    bool ok = vsession_bound(&r->s, r->s.target, sql, keys, &res, err);

    if (ok && PQntuples(res) > 0)
        r->found = constraint_found(r->check, res);
    PQclear(res);
    return ok;
}

static void add_key_value(struct strbuf *sb, const struct map_table *mt, int c)
{
    if (mt->columns[c].same_type)
        strbuf_addf(sb, "e.v%d", c);
    else
        strbuf_addf(sb, "(e.v%d)::%s", c, mt->columns[c].target->type_sql);
}

/* Changed children without a parent. */
static bool look_at_children(struct run *r, const struct map_table *mt, const struct vblock *keys,
                             struct error *err)
{
    const struct constraint_check *c = r->check;
    struct strbuf sql = {0};
    bool ok;

    strbuf_addstr(&sql, "SELECT ");
    constraint_add_shown(&sql, c->table, c->fkey->columns, c->fkey->ncolumns, "c");
    strbuf_addstr(&sql, " FROM ");
    compare_sql_keys(&sql, mt);
    strbuf_addstr(&sql, " JOIN ");
    constraint_add_from(&sql, c->table, "c");
    strbuf_addstr(&sql, " ON ");
    project_key_match(&sql, mt, "c", "e");
    strbuf_addstr(&sql, " WHERE ");
    constraint_add_orphaned(&sql, c);
    strbuf_addf(&sql, " LIMIT %d", CONSTRAINT_SHOWN);
    ok = plan(r, false, err) && look(r, strbuf_cstr(&sql), keys, err);
    strbuf_release(&sql);
    return ok;
}

/* Of these keys, those of which no parent is left; into gone, as they are bound. */
static bool vanished(struct run *r, const struct map_table *mt, const struct vblock *keys,
                     struct vblock *gone, struct error *err)
{
    const struct constraint_check *c = r->check;
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    strbuf_addstr(&sql, "SELECT e.o FROM ");
    compare_sql_keys(&sql, mt);
    strbuf_addstr(&sql, " WHERE NOT EXISTS (SELECT FROM ");
    constraint_add_from(&sql, c->ref_table, "p");
    for (size_t k = 0; k < c->fkey->ncolumns; k++) {
        strbuf_addf(&sql, " %s p.%s %s ", k ? "AND" : "WHERE",
                    cat_column_num(c->ref_table, c->fkey->ref_columns[k])->sql_name,
                    c->parent_equals ? c->parent_equals[k] : "=");
        add_key_value(&sql, mt, referred_key(c, mt, k));
    }
    strbuf_addch(&sql, ')');
    ok = plan(r, false, err) &&
         vsession_bound(&r->s, r->s.target, strbuf_cstr(&sql), keys, &res, err);
    vblock_shape(gone, keys->ncols, keys->n);
    for (int row = 0; ok && row < PQntuples(res); row++)
        vblock_add_row(gone, keys, (size_t) result_int(res, row, 0) - 1);
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

/* Children that refer to a changed key which no parent has any more. */
static bool look_at_parents(struct run *r, const struct map_table *mt, const struct vblock *keys,
                            struct error *err)
{
    const struct constraint_check *c = r->check;
    struct vblock gone = {0};
    struct strbuf sql = {0};
    bool ok = vanished(r, mt, keys, &gone, err);

    if (ok && gone.n) {
        strbuf_addstr(&sql, "SELECT ");
        constraint_add_shown(&sql, c->table, c->fkey->columns, c->fkey->ncolumns, "c");
        strbuf_addstr(&sql, " FROM ");
        compare_sql_keys(&sql, mt);
        strbuf_addstr(&sql, " JOIN ");
        constraint_add_from(&sql, c->table, "c");
        for (size_t k = 0; k < c->fkey->ncolumns; k++) {
            strbuf_addstr(&sql, k ? " AND " : " ON ");
            add_key_value(&sql, mt, referred_key(c, mt, k));
            strbuf_addf(&sql, " %s c.%s", c->child_equals ? c->child_equals[k] : "=",
                        cat_column_num(c->table, c->fkey->columns[k])->sql_name);
        }
        strbuf_addstr(&sql, " WHERE ");
        constraint_add_orphaned(&sql, c);
        strbuf_addf(&sql, " LIMIT %d", CONSTRAINT_SHOWN);
        ok = plan(r, !c->indexed, err) && look(r, strbuf_cstr(&sql), &gone, err);
    }
    vblock_release(&gone);
    strbuf_release(&sql);
    return ok;
}

/* Changed rows that collide with another one. */
static bool look_at_equals(struct run *r, const struct map_table *mt, const struct vblock *keys,
                           struct error *err)
{
    const struct constraint_check *c = r->check;
    struct strbuf sql = {0};
    bool ok;

    strbuf_addstr(&sql, "SELECT DISTINCT ");
    constraint_add_shown(&sql, c->table, c->unique->columns, c->unique->ncolumns, "a");
    strbuf_addstr(&sql, " FROM ");
    compare_sql_keys(&sql, mt);
    strbuf_addstr(&sql, " JOIN ");
    constraint_add_from(&sql, c->table, "a");
    strbuf_addstr(&sql, " ON ");
    project_key_match(&sql, mt, "a", "e");
    strbuf_addstr(&sql, " JOIN ");
    constraint_add_from(&sql, c->table, "b");
    strbuf_addf(&sql, " ON %s AND (a.tableoid, a.ctid) <> (b.tableoid, b.ctid) LIMIT %d",
                c->conflict, CONSTRAINT_SHOWN);
    ok = plan(r, false, err) && look(r, strbuf_cstr(&sql), keys, err);
    strbuf_release(&sql);
    return ok;
}

typedef bool look_fn(struct run *r, const struct map_table *mt, const struct vblock *keys,
                     struct error *err);

/* All changed keys of a table, batch by batch, until something is found. */
static bool each_batch(struct run *r, const struct map_table *mt, look_fn *fn, struct error *err)
{
    struct touched_batch all = {0};
    struct vblock keys = {0}, bound = {0};
    bool ok = true;

    touched_copy(r->changed, mt->index, &all);
    for (size_t from = 0; ok && !r->found && from < all.n; from += BATCH_KEYS) {
        size_t n = all.n - from < BATCH_KEYS ? all.n - from : BATCH_KEYS;
        vblock_shape(&keys, all.nkey, n);
        for (size_t i = from; i < from + n; i++)
            vblock_add_texts(&keys, all.values + i * all.nkey, all.lens + i * all.nkey);
        vblock_key_columns(&bound, mt, &keys);
        ok = fn(r, mt, &bound, err);
    }
    vblock_release(&keys);
    vblock_release(&bound);
    touched_batch_release(&all);
    return ok;
}

static bool check_full(struct run *r, struct error *err)
{
    PGresult *res = NULL;
    bool ok =
        plan(r, true, err) && pg_query(r->s.target, &res, PG_ANY, r->check->sql, 0, NULL, err);

    if (ok && PQntuples(res) > 0)
        r->found = constraint_found(r->check, res);
    PQclear(res);
    return ok;
}

static bool check_keys(struct run *r, struct error *err)
{
    const struct constraint_check *c = r->check;
    bool ok = true;

    for (size_t i = 0; ok && !r->found && i < r->map->ntables; i++) {
        const struct map_table *mt = &r->map->tables[i];
        if (touched_count_table(r->changed, i) == 0)
            continue;
        if (reaches(mt, c->table))
            ok = each_batch(r, mt, c->fkey ? look_at_children : look_at_equals, err);
        if (ok && !r->found && c->fkey && reaches(mt, c->ref_table))
            ok = each_batch(r, mt, look_at_parents, err);
    }
    return ok;
}

/* Keys are texts in the source's encoding. */
static bool begin(struct run *r, struct error *err)
{
    struct strbuf sql = {0};
    bool ok;

    strbuf_addstr(&sql, "BEGIN; SET LOCAL client_encoding = ");
    pg_add_literal(&sql, r->map->source->encoding);
    strbuf_addstr(&sql, "; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'");
    ok = pg_exec(r->s.target, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    return ok;
}

static bool check_changed(struct run *r, struct error *err)
{
    const struct constraint_check *c = r->check;
    bool full;

    if (changed_for(c, r->map, r->changed, &full) == 0 && !full)
        return true;
    full = full || (c->unique && !c->conflict);
    return (full ? check_full(r, err) : check_keys(r, err)) &&
           (!r->found || constraint_refuse(c, r->found, err));
}

static bool nothing_changed(const struct constraint_checks *c, const struct map *map,
                            struct touched *changed)
{
    struct constraint_backlog b;

    constraint_checks_backlog(c, map, changed, &b);
    return b.keys == 0 && b.full == 0;
}

bool constraint_checks_run_changed(struct constraint_checks *c, struct pg *green,
                                   const struct map *map, struct touched *changed,
                                   int64_t deadline_us, struct error *err)
{
    struct run r = {.map = map, .changed = changed, .s = {.target = green}, .free_planner = true};
    bool ok = true;

    if (nothing_changed(c, map, changed))
        return true;
    pg_set_deadline(green, deadline_us);
    for (size_t i = 0; ok && i < c->n; i++)
        ok = constraint_prepare(&c->items[i], green, err);
    ok = ok && begin(&r, err);
    for (size_t i = 0; ok && i < c->n; i++) {
        r.check = &c->items[i];
        ok = r.check->impossible || check_changed(&r, err) ||
             error_push(err, "checking %s",
                        r.check->fkey ? r.check->fkey->name : r.check->unique->name);
    }
    pg_rollback(green);
    pg_set_deadline(green, CLOCK_NONE);
    if (!ok && err->code == ERR_TIMEOUT)
        err->code = ERR_BUDGET;
    free(r.found);
    vsession_unbind(&r.s);
    return ok;
}
