#include "repl/relation.h"

#include "base/alloc.h"

#include <stdlib.h>

struct oid_table {
    uint32_t oid;
    const struct map_table *mt;
};

struct relations {
    const struct map *map;
    char *marker_schema;
    struct oid_table *by_oid; /* sorted; made when first needed */
    struct relation **slots;  /* open addressing by id */
    size_t nslots, used;
    struct relation **replaced; /* changes that were gathered may still point to them */
    size_t nreplaced, capreplaced;
};

struct relations *relations_new(const struct map *map, const char *marker_schema)
{
    struct relations *rs = xcalloc(1, sizeof *rs);
    rs->map = map;
    rs->marker_schema = xstrdup(marker_schema);
    return rs;
}

static void free_relation(struct relation *r)
{
    if (r)
        free(r->position);
    free(r);
}

void relations_free(struct relations *rs)
{
    if (!rs)
        return;
    for (size_t i = 0; i < rs->nslots; i++)
        free_relation(rs->slots[i]);
    for (size_t i = 0; i < rs->nreplaced; i++)
        free_relation(rs->replaced[i]);
    free(rs->slots);
    free(rs->replaced);
    free(rs->by_oid);
    free(rs->marker_schema);
    free(rs);
}

static struct relation **slot_of(const struct relations *rs, uint32_t id)
{
    size_t i = (id * 0x9E3779B1U) & (rs->nslots - 1);
    while (rs->slots[i] && rs->slots[i]->id != id)
        i = (i + 1) & (rs->nslots - 1);
    return &rs->slots[i];
}

static void grow(struct relations *rs)
{
    struct relation **old = rs->slots;
    size_t nold = rs->nslots;

    rs->nslots = nold ? nold * 2 : 64;
    rs->slots = xcalloc(rs->nslots, sizeof *rs->slots);
    for (size_t i = 0; i < nold; i++)
        if (old[i])
            *slot_of(rs, old[i]->id) = old[i];
    free(old);
}

static void enter(struct relations *rs, struct relation *r)
{
    if ((rs->used + 1) * 2 > rs->nslots)
        grow(rs);
    struct relation **slot = slot_of(rs, r->id);
    if (*slot)
        *VEC_ADD(rs->replaced, rs->nreplaced, rs->capreplaced) = *slot;
    else
        rs->used++;
    *slot = r;
}

static bool changed(struct error *err, const struct pgo_message *m, const char *what,
                    const char *name)
{
    error_set(err, ERR_NOGO, "DDL on the source during the run: %s.%s %s%s%s%s", m->schema, m->name,
              what, name ? " \"" : "", name ? name : "", name ? "\"" : "");
    return error_hint(
        err, "The clone no longer has the source's schema. Undo with `pgcutover abort` and "
             "run again; no DDL may run on the source meanwhile.");
}

static bool learn_marker(struct relation *r, const struct pgo_message *m, struct error *err)
{
    r->kind = RELATION_MARKER;
    r->ncolumns = m->ncolumns;
    r->run_at = r->n_at = -1;
    for (int i = 0; i < m->ncolumns; i++) {
        if (strcmp(m->columns[i].name, "run") == 0)
            r->run_at = i;
        else if (strcmp(m->columns[i].name, "n") == 0)
            r->n_at = i;
    }
    if (r->run_at < 0 || r->n_at < 0)
        return error_set(err, ERR_PROTOCOL, "the marker table %s.%s has no column run or n",
                         m->schema, m->name);
    return true;
}

static int column_at(const struct pgo_message *m, const char *name, int hint)
{
    if (hint < m->ncolumns && strcmp(m->columns[hint].name, name) == 0)
        return hint;
    for (int i = 0; i < m->ncolumns; i++)
        if (strcmp(m->columns[i].name, name) == 0)
            return i;
    return -1;
}

/* The name of a column in the message that the map doesn't know. */
static const char *unknown_column(const struct map_table *mt, const struct pgo_message *m)
{
    for (int i = 0; i < m->ncolumns; i++) {
        size_t j = 0;
        while (j < mt->nsource && strcmp(mt->source_columns[j]->name, m->columns[i].name) != 0)
            j++;
        if (j == mt->nsource)
            return m->columns[i].name;
    }
    return NULL;
}

static bool learn_columns(struct relation *r, const struct pgo_message *m, struct error *err)
{
    const struct map_table *mt = r->mt;
    bool moved = false;

    r->ncolumns = m->ncolumns;
    r->position = xcalloc(mt->nsource + 1, sizeof *r->position);
    for (size_t j = 0; j < mt->nsource; j++) {
        const struct cat_column *c = mt->source_columns[j];
        int at = column_at(m, c->name, (int) j);
        if (at < 0)
            return changed(err, m, "has lost the column", c->name);
        if (m->columns[at].type != c->type)
            return changed(err, m, "has another type in the column", c->name);
        r->position[j] = at;
        moved = moved || at != (int) j;
    }
    if (m->ncolumns != mt->nsource)
        return changed(err, m, "has the new column", unknown_column(mt, m));
    if (!moved) {
        free(r->position);
        r->position = NULL;
    }
    return true;
}

bool relations_learn(struct relations *rs, const struct pgo_message *m, struct error *err)
{
    struct relation *r = xcalloc(1, sizeof *r);
    bool ok = true;

    r->id = m->relation;
    r->mt = map_by_name(rs->map, m->schema, m->name);
    if (r->mt && r->mt->skipped) {
        r->kind = RELATION_SKIPPED;
    } else if (r->mt) {
        r->kind = RELATION_TABLE;
        ok = learn_columns(r, m, err);
    } else if (strcmp(m->schema, rs->marker_schema) == 0 && strcmp(m->name, "marker") == 0) {
        ok = learn_marker(r, m, err);
    } else {
        ok = changed(err, m, "was not there when the map was made", NULL);
    }
    if (ok)
        enter(rs, r);
    else
        free_relation(r);
    return ok;
}

static int by_oid(const void *a, const void *b)
{
    uint32_t x = ((const struct oid_table *) a)->oid;
    uint32_t y = ((const struct oid_table *) b)->oid;
    return (x > y) - (x < y);
}

static const struct map_table *table_by_oid(struct relations *rs, uint32_t oid)
{
    const struct map *map = rs->map;

    if (!rs->by_oid) {
        rs->by_oid = xcalloc(map->ntables + 1, sizeof *rs->by_oid);
        for (size_t i = 0; i < map->ntables; i++)
            rs->by_oid[i] = (struct oid_table){map->tables[i].source->oid, &map->tables[i]};
        qsort(rs->by_oid, map->ntables, sizeof *rs->by_oid, by_oid);
    }
    struct oid_table key = {.oid = oid};
    const struct oid_table *found =
        bsearch(&key, rs->by_oid, map->ntables, sizeof *rs->by_oid, by_oid);
    return found ? found->mt : NULL;
}

/* The marker's columns begin with run and n (facts.h). */
static struct relation *relation_from_map(struct relations *rs, uint32_t id)
{
    struct relation *r = xcalloc(1, sizeof *r);

    r->id = id;
    r->mt = table_by_oid(rs, id);
    r->kind = !r->mt ? RELATION_MARKER : r->mt->skipped ? RELATION_SKIPPED : RELATION_TABLE;
    if (r->kind == RELATION_TABLE)
        r->ncolumns = (uint16_t) r->mt->nsource;
    r->n_at = 1;
    return r;
}

bool relations_find(struct relations *rs, uint32_t id, const struct relation **out,
                    struct error *err)
{
    if (id == 0)
        return error_set(err, ERR_PROTOCOL, "a change has no relation");
    if (rs->nslots == 0 || !*slot_of(rs, id))
        enter(rs, relation_from_map(rs, id));
    *out = *slot_of(rs, id);
    return true;
}

bool relation_row(const struct relation *r, const struct pgo_tuple *tuple, struct arena *arena,
                  const struct pgo_value **out, struct error *err)
{
    if (tuple->n != r->ncolumns)
        return error_set(err, ERR_PROTOCOL, "a row of %s.%s has %d columns where %d were expected",
                         r->mt->source->schema, r->mt->source->name, tuple->n, r->ncolumns);
    *out = tuple->values;
    if (!r->position)
        return true;
    struct pgo_value *row = arena_alloc(arena, tuple->n * sizeof *row);
    for (size_t j = 0; j < r->mt->nsource; j++)
        row[j] = tuple->values[r->position[j]];
    *out = row;
    return true;
}
