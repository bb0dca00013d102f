/* describe.c - a comparison as text for people: what differs, where, and what to try. */
#include "private.h"

#include "base/human.h"

#include <string.h>

static void add_count(struct strbuf *out, int64_t n, const char *what, const char **sep)
{
    char buf[HUMAN_SIZE];

    if (n == 0)
        return;
    strbuf_addf(out, "%s%s %s", *sep, human_count(buf, n), what);
    *sep = ", ";
}

static void add_indented(struct strbuf *out, const char *text, const char *indent)
{
    while (text && *text) {
        const char *end = strchr(text, '\n');
        size_t len = end ? (size_t) (end - text) : strlen(text);
        strbuf_addf(out, "%s%.*s\n", indent, (int) len, text);
        text = end ? end + 1 : NULL;
    }
}

static void add_columns(struct strbuf *out, const struct verify_table *vt)
{
    char buf[HUMAN_SIZE];

    for (size_t c = 0; c < compare_checks(vt->table); c++)
        if (vt->column_diffs[c])
            strbuf_addf(out, "  column %s differs in %s rows%s\n",
                        compare_check_column(vt->table, c)->sql_name,
                        human_count(buf, vt->column_diffs[c]),
                        c < vt->table->ncolumns ? "" : " (the map leaves it to its default)");
}

static void add_rule(struct strbuf *out, const struct verify_table *vt)
{
    if (!vt->suggestion)
        return;
    strbuf_addf(out,
                "  this would give what the target has; check it, then put it in the playbook:\n   "
                " [map %s.%s]\n",
                vt->table->source->schema, vt->table->source->name);
    add_indented(out, vt->suggestion, "    ");
}

void describe_table(struct strbuf *out, const struct verify_table *vt)
{
    const struct map_table *mt = vt->table;
    const char *sep = "";

    strbuf_addstr(out, mt->source->sql_name);
    if (mt->target && strcmp(mt->target->sql_name, mt->source->sql_name) != 0)
        strbuf_addf(out, " -> %s", mt->target->sql_name);
    strbuf_addstr(out, ": ");
    add_count(out, vt->missing, "missing", &sep);
    add_count(out, vt->extra, "extra", &sep);
    add_count(out, vt->differing, "differing", &sep);
    add_count(out, vt->proved, "equal", &sep);
    add_count(out, vt->excepted, "left out because they changed meanwhile", &sep);
    strbuf_addstr(out, *sep ? "\n" : "no rows\n");
    add_columns(out, vt);
    add_indented(out, vt->examples, "  ");
    add_rule(out, vt);
}

void verify_describe(struct strbuf *out, const struct map *map, const struct verify_result *r)
{
    char rows[HUMAN_SIZE], differing[HUMAN_SIZE];
    size_t compared = 0;

    (void) map; /* the tables know theirs */
    for (size_t i = 0; i < r->ntables; i++)
        compared += r->tables[i].compared;
    strbuf_addf(out, "%zu tables compared, %s rows, %s differences\n", compared,
                human_count(rows, r->rows), human_count(differing, r->differing));
    for (size_t i = 0; i < r->ntables; i++) {
        const struct verify_table *vt = &r->tables[i];
        if (vt->missing + vt->extra + vt->differing > 0)
            describe_table(out, vt);
    }
    for (size_t i = 0; i < r->ntables; i++) {
        const struct verify_table *vt = &r->tables[i];
        if (vt->compared && vt->source_rows > 0 && vt->proved == 0 &&
            vt->missing + vt->extra + vt->differing == 0)
            strbuf_addf(out, "%s: no row could be proved\n", vt->table->source->sql_name);
    }
}
