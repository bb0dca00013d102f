/* batch_describe.c - the steps of a group as text. */
#include "batch_private.h"

static void add_values(struct strbuf *sb, const struct map_table *mt, const struct pgo_value *row,
                       bool key_only)
{
    bool first = true;

    for (size_t j = 0; j < mt->nsource; j++) {
        bool wanted = !key_only;
        for (size_t i = 0; i < mt->nsource_key; i++)
            wanted = wanted || mt->source_key[i] == (int) j;
        if (!wanted)
            continue;
        if (!first)
            strbuf_addch(sb, ',');
        first = false;
        if (row[j].kind == 'n')
            strbuf_addstr(sb, "NULL");
        else if (row[j].kind == 'u')
            strbuf_addch(sb, '?');
        else
            strbuf_add(sb, row[j].data, row[j].len);
    }
}

static void add_row(struct strbuf *sb, const struct map_table *mt, const struct row *row)
{
    static const char letters[] = {[ROW_NONE] = '?',   [ROW_INSERT] = 'I',  [ROW_UPDATE] = 'U',
                                   [ROW_DELETE] = 'D', [ROW_REPLACE] = 'R', [ROW_NOTHING] = '-'};
    bool whole = row->values && row->state != ROW_DELETE && row->state != ROW_NOTHING;

    strbuf_addf(sb, " %c(", letters[row->state]);
    add_values(sb, mt, whole ? row->values : row->key, !whole);
    strbuf_addch(sb, ')');
}

static void add_single(struct strbuf *sb, const struct map_table *mt, const struct change *c)
{
    static const char letters[] = {
        [OP_INSERT] = 'i', [OP_UPDATE] = 'u', [OP_DELETE] = 'd', [OP_REKEY] = 'k'};
    bool keyed = mt->nsource_key > 0;

    strbuf_addf(sb, " %c(", letters[c->op]);
    if (c->op != OP_INSERT) {
        add_values(sb, mt, keyed ? c->key : c->old, keyed);
        strbuf_addstr(sb, c->op == OP_DELETE ? "" : ">");
    }
    if (c->op != OP_DELETE)
        add_values(sb, mt, c->row, false);
    strbuf_addch(sb, ')');
}

void batch_describe(struct strbuf *out, const struct batch *b)
{
    if (b->odd)
        strbuf_addstr(out, "one by one\n");
    for (const struct table *t = b->first_table; t; t = t->next) {
        for (const struct step *s = t->steps; s; s = s->next) {
            strbuf_addf(out, "%s:", t->mt->source->name);
            for (const struct row *row = s->rows; row; row = row->next)
                add_row(out, t->mt, row);
            for (const struct change *c = s->singles; c; c = c->next_single)
                add_single(out, t->mt, c);
            strbuf_addch(out, '\n');
        }
    }
}
