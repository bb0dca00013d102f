/* print.c - the map as text, for people who read it at two in the morning. */
#include "map/map.h"

#include "base/human.h"

#include <string.h>

static bool same_name(const struct cat_table *a, const struct cat_table *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->schema, b->schema) == 0;
}

/* a partition that goes to the same partitioned table, or a table to its own */
static const struct cat_table *shown_target(const struct map_table *mt)
{
    return mt->target_leaf ? mt->target_leaf : mt->target;
}

static bool is_unchanged(const struct map_table *mt)
{
    if (!mt->identical || mt->skipped || mt->unresolved || mt->reason || !mt->target ||
        !same_name(mt->source, shown_target(mt)))
        return false;
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (strcmp(mt->columns[c].source->name, mt->columns[c].target->name) != 0)
            return false;
    return true;
}

/* Each line of text behind a label, the first with it, the others under it. */
static void add_lines(struct strbuf *out, const char *label, const char *text)
{
    while (*text) {
        size_t len = strcspn(text, "\n");
        strbuf_addf(out, "    %-11s %.*s\n", label, (int) len, text);
        text += len + (text[len] == '\n');
    }
}

static int width_of(const struct map_table *mt)
{
    size_t width = 8;
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (strlen(mt->columns[c].target->sql_name) > width)
            width = strlen(mt->columns[c].target->sql_name);
    for (size_t i = 0; i < mt->nrest; i++)
        if (strlen(mt->rest[i].target->sql_name) > width)
            width = strlen(mt->rest[i].target->sql_name);
    return width > 40 ? 40 : (int) width;
}

/* A rule may have lines of its own; here it is one. */
static void add_flat(struct strbuf *out, const char *text)
{
    for (; *text; text++) {
        if (*text != '\n' && *text != '\t')
            strbuf_addch(out, *text);
        else if (text[1])
            strbuf_addch(out, ' ');
    }
}

static void add_column(struct strbuf *out, const struct map_column *c, int width)
{
    strbuf_addf(out, "    %-11s %-*s <- ",
                c->rule        ? "rule"
                : c->same_type ? "copied"
                               : "cast",
                width, c->target->sql_name);
    if (c->rule) {
        add_flat(out, c->expr);
    } else {
        strbuf_addstr(out, c->source->sql_name);
        if (strcmp(c->source->type_full, c->target->type_full) != 0)
            strbuf_addf(out, "  (%s -> %s)", c->source->type_full, c->target->type_full);
    }
    if (c->volatile_value)
        strbuf_addstr(out, "  [volatile: only its presence is compared]");
    if (!c->settable && c->source && !c->source->identity)
        strbuf_addstr(out, "  [identity ALWAYS: rows are put in anew to change it]");
    strbuf_addch(out, '\n');
}

static void add_rest(struct strbuf *out, const struct map_rest *rest, int width)
{
    const char *value = rest->target->default_sql ? rest->target->default_sql
                        : rest->expect            ? rest->expect
                                                  : "";
    strbuf_addf(out, "    %-11s %-*s    ", "added", width, rest->target->sql_name);
    switch (rest->kind) {
    case MAP_REST_NULL:
        strbuf_addstr(out, "null in every row");
        break;
    case MAP_REST_CONSTANT:
        strbuf_addf(out, "%s in every row", value);
        break;
    case MAP_REST_VOLATILE:
        if (rest->target->identity)
            strbuf_addstr(out, "identity: green counts, not compared");
        else
            strbuf_addf(out, "%s%snot compared", value, *value ? ": " : "");
        break;
    case MAP_REST_GENERATED:
        strbuf_addstr(out, "generated: green computes it");
        break;
    }
    strbuf_addch(out, '\n');
}

static bool is_read(const struct map_table *mt, size_t source)
{
    for (size_t c = 0; c < mt->ncolumns; c++)
        for (size_t i = 0; i < mt->columns[c].nneeds; i++)
            if (mt->columns[c].needs[i] == (int) source)
                return true;
    return false;
}

static void add_key(struct strbuf *out, const struct map_table *mt)
{
    if (mt->unresolved && mt->nkey == 0)
        return;
    strbuf_addf(out, "    %-11s ", "key");
    for (size_t k = 0; k < mt->nkey; k++)
        strbuf_addf(out, "%s%s", k ? ", " : "", mt->columns[mt->key[k]].target->sql_name);
    strbuf_addstr(out, mt->nkey ? "\n" : "none: rows are matched as a whole, one at a time\n");
}

/* Plain copies under their own names are counted only, unless all is wanted. */
static void add_columns(struct strbuf *out, const struct map_table *mt, bool all)
{
    int width = width_of(mt);
    size_t plain = 0;
    for (size_t c = 0; c < mt->ncolumns; c++) {
        const struct map_column *col = &mt->columns[c];
        if (!all && !col->rule && col->same_type && !col->volatile_value &&
            strcmp(col->source->name, col->target->name) == 0)
            plain++;
        else
            add_column(out, col, width);
    }
    for (size_t i = 0; i < mt->nrest; i++)
        add_rest(out, &mt->rest[i], width);
    for (size_t i = 0; i < mt->nsource; i++)
        if (!is_read(mt, i))
            strbuf_addf(out, "    %-11s %-*s    blue's column is not on green\n", "dropped", width,
                        mt->source_columns[i]->sql_name);
    if (plain)
        strbuf_addf(out, "    %-11s %zu column%s as they are\n", "copied", plain,
                    plain == 1 ? "" : "s");
}

static void add_table(struct strbuf *out, const struct map_table *mt, bool all)
{
    strbuf_addstr(out, mt->source->sql_name);
    if (mt->skipped) {
        strbuf_addstr(out, ": skipped, its changes are not replayed\n");
    } else if (!mt->target) {
        strbuf_addstr(out, " -> ?\n");
    } else {
        strbuf_addf(out, " -> %s", mt->target->sql_name);
        if (mt->target_leaf && mt->target_leaf != mt->target)
            strbuf_addf(out, " (partition %s)", mt->target_leaf->sql_name);
        strbuf_addch(out, '\n');
    }
    if (mt->unresolved)
        add_lines(out, "UNRESOLVED", mt->unresolved);
    if (mt->target && !mt->skipped) {
        add_columns(out, mt, all);
        add_key(out, mt);
    }
    if (mt->reason)
        add_lines(out, "note", mt->reason);
    if (mt->wants_full)
        add_lines(out, "note",
                  "a rule reads a column that may be sent as unchanged: blue's table needs "
                  "REPLICA IDENTITY FULL");
    strbuf_addch(out, '\n');
}

static void add_counts(struct strbuf *out, const struct map *m, size_t unchanged)
{
    char count[HUMAN_SIZE];
    size_t unresolved = map_unresolved(m), gone = 0;
    if (unchanged)
        strbuf_addf(out, "%s table%s unchanged\n", human_count(count, (int64_t) unchanged),
                    unchanged == 1 ? " is" : "s are");
    for (size_t i = 0; i < m->nnew_tables; i++)
        strbuf_addf(out, "%s is new: no table of blue feeds it\n", m->new_tables[i]->sql_name);
    for (size_t i = 0; i < m->nsequences; i++)
        gone += m->sequences[i].target == 0;
    if (gone)
        strbuf_addf(out, "%s sequence%s of blue %s not on green any more\n",
                    human_count(count, (int64_t) gone), gone == 1 ? "" : "s",
                    gone == 1 ? "is" : "are");
    if (unresolved)
        strbuf_addf(
            out, "%s table%s UNRESOLVED: replay can't begin until the playbook says what to do\n",
            human_count(count, (int64_t) unresolved), unresolved == 1 ? " is" : "s are");
    else
        strbuf_addstr(out, "every table is resolved\n");
}

void map_print(struct strbuf *out, const struct map *m, bool all)
{
    size_t unchanged = 0;
    for (size_t i = 0; i < m->ntables; i++) {
        bool same = is_unchanged(&m->tables[i]);
        unchanged += same;
        if (all || !same)
            add_table(out, &m->tables[i], all);
    }
    add_counts(out, m, unchanged);
}
