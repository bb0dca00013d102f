/* batch_sql.c - the statements of a table, made once, and their parameters: one text[] for each
 * column. */
#include "base/alloc.h"
#include "batch_private.h"

#include <stdlib.h>

#define TEXT_ARRAY 1009 /* pg_type.dat: _text */
#define KEEP_ARRAY ((size_t) 4 * 1024 * 1024)

static struct mask *find_mask(const struct table *t, const struct pgo_value *row, bool partial)
{
    for (size_t i = 0; i < t->nmasks; i++) {
        const bool *present = t->masks[i]->present;
        size_t j = 0;
        if (partial)
            while (j < t->mt->nsource && present[j] == (row[j].kind != 'u'))
                j++;
        else
            while (j < t->mt->nsource && present[j])
                j++;
        if (j == t->mt->nsource)
            return t->masks[i];
    }
    return NULL;
}

/* A column whose rule reads both what was sent and what wasn't can't be computed, and would become
 * stale. */
static void find_stale(const struct map_table *mt, struct mask *m)
{
    m->stale = m->missing = -1;
    for (size_t c = 0; c < mt->ncolumns && m->stale < 0; c++) {
        bool some = false;
        if (project_has_needs(mt, c, m->present, &some) || !some)
            continue;
        m->stale = (int) c;
        for (size_t i = 0; i < mt->columns[c].nneeds; i++)
            if (!m->present[mt->columns[c].needs[i]])
                m->missing = mt->columns[c].needs[i];
    }
}

struct mask *table_mask(struct batch *b, struct table *t, const struct pgo_value *row, bool partial)
{
    struct mask *m = find_mask(t, row, partial);

    (void) b;
    if (m)
        return m;
    m = xcalloc(1, sizeof *m);
    m->present = xcalloc(t->mt->nsource + 1, sizeof *m->present);
    for (size_t j = 0; j < t->mt->nsource; j++)
        m->present[j] = row[j].kind != 'u';
    find_stale(t->mt, m);
    *VEC_ADD(t->masks, t->nmasks, t->capmasks) = m;
    return m;
}

const char *table_insert(struct table *t)
{
    struct strbuf sb = {0};

    if (!t->insert) {
        project_insert(&sb, t->mt, NULL);
        t->insert = strbuf_take(&sb);
    }
    return t->insert;
}

const char *table_delete(struct table *t)
{
    struct strbuf sb = {0};

    if (!t->delete) {
        project_delete(&sb, t->mt);
        t->delete = strbuf_take(&sb);
    }
    return t->delete;
}

const char *table_delete_row(struct table *t)
{
    struct strbuf sb = {0};

    if (!t->delete_row) {
        project_delete_row(&sb, t->mt);
        t->delete_row = strbuf_take(&sb);
    }
    return t->delete_row;
}

const char *table_delete_rows(struct table *t)
{
    struct strbuf sb = {0};

    if (!t->delete_rows) {
        project_delete_rows(&sb, t->mt);
        t->delete_rows = strbuf_take(&sb);
    }
    return t->delete_rows;
}

const char *mask_update(struct table *t, struct mask *m)
{
    struct strbuf sb = {0};

    if (!m->made_update && project_update(&sb, t->mt, m->present))
        m->update = strbuf_take(&sb);
    m->made_update = true;
    strbuf_release(&sb);
    return m->update;
}

const char *mask_update_row(struct table *t, struct mask *m)
{
    struct strbuf sb = {0};

    if (!m->made_update_row && project_update_row(&sb, t->mt, m->present))
        m->update_row = strbuf_take(&sb);
    m->made_update_row = true;
    strbuf_release(&sb);
    return m->update_row;
}

const char *mask_update_rows(struct table *t, struct mask *m)
{
    struct strbuf sb = {0};

    if (!m->made_update_rows && project_update_rows(&sb, t->mt, m->present))
        m->update_rows = strbuf_take(&sb);
    m->made_update_rows = true;
    strbuf_release(&sb);
    return m->update_rows;
}

const char *mask_rekey(struct table *t, struct mask *m)
{
    struct strbuf sb = {0};

    if (!m->rekey) {
        project_rekey(&sb, t->mt, m->present);
        m->rekey = strbuf_take(&sb);
    }
    return m->rekey;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->nmasks; i++) {
        struct mask *m = t->masks[i];
        free(m->present);
        free(m->update);
        free(m->rekey);
        free(m->update_row);
        free(m->update_rows);
        free(m);
    }
    free(t->masks);
    free(t->key_columns);
    free(t->insert);
    free(t->delete);
    free(t->delete_row);
    free(t->delete_rows);
    free(t);
}

void bind_none(struct batch *b)
{
    b->nparams = 0;
}

static struct strbuf *next_array(struct batch *b)
{
    if (b->nparams == b->capparams) {
        size_t cap = b->capparams;
        b->arrays = vec_grow(b->arrays, &cap, b->capparams + 1, sizeof *b->arrays);
        b->params = xrealloc(b->params, cap * sizeof *b->params);
        memset(b->arrays + b->capparams, 0, (cap - b->capparams) * sizeof *b->arrays);
        b->capparams = cap;
    }
    return &b->arrays[b->nparams++];
}

static void reserve_values(struct batch *b, size_t n)
{
    if (n <= b->capvalues)
        return;
    b->values = xrealloc(b->values, n * sizeof *b->values);
    b->lens = xrealloc(b->lens, n * sizeof *b->lens);
    b->capvalues = n;
}

void bind_rows(struct batch *b, const struct map_table *mt, const bool *present,
               const struct pgo_value *const *rows, size_t n)
{
    reserve_values(b, n);
    for (size_t j = 0; j < mt->nsource; j++) {
        if (present && !present[j])
            continue;
        for (size_t i = 0; i < n; i++) {
            const struct pgo_value *v = &rows[i][j];
            b->values[i] = v->kind == 'n' ? NULL : v->data;
            b->lens[i] = (int) v->len;
        }
        pg_text_array(next_array(b), n, b->values, b->lens);
    }
}

bool batch_execute(struct batch *b, struct pg *pg, const char *sql, int64_t *affected,
                   struct error *err)
{
    PGresult *res = NULL;

    for (size_t i = 0; i < b->nparams; i++)
        b->params[i] = (struct pg_param){.data = b->arrays[i].data,
                                         .len = (int) b->arrays[i].len,
                                         .binary = 1,
                                         .type = TEXT_ARRAY};
    bool ok = pg_prepared(pg, &res, sql, (int) b->nparams, b->params, err);
    for (size_t i = 0; i < b->nparams; i++)
        if (b->arrays[i].cap > KEEP_ARRAY)
            strbuf_release(&b->arrays[i]);
    *affected = ok ? strtoll(PQcmdTuples(res), NULL, 10) : -1;
    PQclear(res);
    return ok;
}
