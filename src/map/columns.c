/* columns.c - what each column of the target gets: a copy, a cast, a rule, or what green makes of
 * its absence. */
#include "derive.h"

#include "base/alloc.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define OID_TEXT 25
#define OID_VARCHAR 1043

/* The text of a typmod, "(10,2)", in a type's full name; "" for none. */
static void typmod_of(const char *type_full, const char **start, size_t *len)
{
    bool quoted = false;
    *start = "";
    *len = 0;
    for (const char *p = type_full; *p; p++) {
        if (*p == '"')
            quoted = !quoted;
        if (*p == '(' && !quoted) {
            const char *end = strchr(p, ')');
            *start = p;
            *len = end ? (size_t) (end - p) + 1 : strlen(p);
            return;
        }
    }
}

static bool same_typmod(const char *a, const char *b)
{
    const char *x, *y;
    size_t nx, ny;
    typmod_of(a, &x, &nx);
    typmod_of(b, &y, &ny);
    return nx == ny && memcmp(x, y, nx) == 0;
}

static long text_limit(const char *type_full)
{
    const char *start;
    size_t len;
    typmod_of(type_full, &start, &len);
    return len > 1 ? strtol(start + 1, NULL, 10) : 0;
}

/* text and varchar, where nothing that fits the old column fails to fit the new one */
static bool widened_text(const struct cat_column *blue, Oid before, const struct cat_column *green)
{
    if ((before != OID_TEXT && before != OID_VARCHAR) ||
        (green->type != OID_TEXT && green->type != OID_VARCHAR))
        return false;
    long from = text_limit(blue->type_full), to = text_limit(green->type_full);
    return to == 0 || (from > 0 && from <= to);
}

static bool same_text_form(const struct cat_column *blue, const struct cat_column *before,
                           const struct cat_column *green)
{
    if (!before)
        return false;
    return (before->type == green->type && same_typmod(blue->type_full, green->type_full)) ||
           widened_text(blue, before->type, green);
}

/* Where a column of blue is on the target now; NULL: gone. */
static const struct cat_column *follow(const struct map_table *mt, const struct link *link,
                                       const struct cat_column *column)
{
    const struct cat_column *now, *was;
    if (link->by_name)
        return cat_column(mt->target, column->name);
    was = cat_column(link->before, column->name);
    now = was ? cat_column_num(link->after, was->attnum) : NULL;
    /* a partition has the columns of its partitioned table under the same names and other numbers
     */
    return now && link->after != mt->target ? cat_column(mt->target, now->name) : now;
}

/* An enum whose values were renamed takes blue's no more. A column that a rule replaces is given to
 * the rules as text, so that they can say what became of them. */
static bool replaced_enum(struct derive *d, const struct link *link, Oid type, const char *name,
                          const struct cat_column *was)
{
    const struct map_rule *from = NULL;
    const struct cat_column *now = NULL;

    if (!oid_texts_find(&d->enums, type))
        return false;
    if (link->after && was)
        now = link->by_name ? cat_column(link->after, name)
                            : cat_column_num(link->after, was->attnum);
    return rules_up(d, link, now ? now->name : name, &from) != NULL;
}

static void derive_source(struct derive *d, struct map_table *mt, struct link *link)
{
    const struct cat_table *source = mt->source;
    mt->source_columns = xcalloc(source->ncolumns + 1, sizeof *mt->source_columns);
    mt->source_types = xcalloc(source->ncolumns + 1, sizeof *mt->source_types);
    link->image = xcalloc(source->ncolumns + 1, sizeof *link->image);
    for (size_t i = 0; i < source->ncolumns; i++) {
        const struct cat_column *column = &source->columns[i];
        const struct cat_column *was = link->before ? cat_column(link->before, column->name) : NULL;
        if (!was && link->before)
            say_unresolved(link,
                           "green had no column %s before the migrations: the clone is older than "
                           "the column; clone again",
                           column->sql_name);
        if (column->generated)
            continue;
        const char *type = was ? oid_texts_find(&d->types, was->type) : NULL;
        if (was && replaced_enum(d, link, was->type, column->name, was))
            type = NULL;
        mt->source_types[mt->nsource] = xstrdup(type ? type : "text");
        mt->source_columns[mt->nsource++] = column;
    }
}

/* Blank ends go; a comment must not swallow the parenthesis that follows. */
static char *clean_rule(const char *expr)
{
    size_t len = strlen(expr);
    while (len && (isspace((unsigned char) expr[len - 1]) || expr[len - 1] == ';'))
        len--;
    while (len && isspace((unsigned char) *expr)) {
        expr++;
        len--;
    }
    char *copy = xstrndup(expr, len);
    if (!strstr(copy, "--"))
        return copy;
    char *with_newline = xstrfmt("%s\n", copy);
    free(copy);
    return with_newline;
}

static void add_rule(struct map_table *mt, const struct cat_column *target, const char *expr)
{
    struct map_column *c = VEC_ADD(mt->columns, mt->ncolumns, mt->capcolumns);
    c->target = target;
    c->expr = clean_rule(expr);
    c->rule = true;
    c->settable = target->identity != 'a';
    c->key_index = -1;
}

static void add_copy(struct map_table *mt, const struct link *link, const struct cat_column *target,
                     int source)
{
    const struct cat_column *from = mt->source_columns[source];
    struct strbuf expr = {0};
    struct map_column *c = VEC_ADD(mt->columns, mt->ncolumns, mt->capcolumns);
    strbuf_addstr(&expr, "r.");
    pg_add_ident(&expr, from->name);
    c->target = target;
    c->source = from;
    c->expr = strbuf_take(&expr);
    c->same_type =
        same_text_form(from, link->before ? cat_column(link->before, from->name) : NULL, target);
    c->settable = target->identity != 'a';
    c->key_index = -1;
    c->needs = xcalloc(1, sizeof *c->needs);
    c->needs[0] = source;
    c->nneeds = 1;
}

static void add_rest(struct derive *d, struct map_table *mt, struct link *link,
                     const struct cat_column *target)
{
    const char *expr = target->default_sql;
    struct map_rest *rest = VEC_ADD(mt->rest, mt->nrest, mt->caprest);
    rest->target = target;
    if (!expr)
        expr = oid_texts_find(&d->domain_defaults, target->type);
    if (target->generated) {
        rest->kind = MAP_REST_GENERATED;
    } else if (target->identity) {
        rest->kind = MAP_REST_VOLATILE;
    } else if (expr) {
        /* check_defaults tells whether it is constant */
        rest->kind = MAP_REST_VOLATILE;
        rest->expect = xstrfmt("(%s)::%s", expr, target->type_full);
    } else {
        rest->kind = MAP_REST_NULL;
        if (target->not_null)
            say_unresolved(
                link,
                "new column %s is NOT NULL without a default: add up.%s = ... under [map %s.%s]",
                target->sql_name, target->name, mt->source->schema, mt->source->name);
    }
}

/* A column that green no longer computes while blue still does; its values are not in the log. */
static const struct cat_column *lost_generation(const struct map_table *mt, const struct link *link,
                                                const struct cat_column *target)
{
    for (size_t i = 0; i < mt->source->ncolumns; i++)
        if (mt->source->columns[i].generated && !target->generated &&
            follow(mt, link, &mt->source->columns[i]) == target)
            return &mt->source->columns[i];
    return NULL;
}

static bool add_target_column(struct derive *d, struct map_table *mt, struct link *link,
                              size_t index, struct error *err)
{
    const struct cat_column *target = &mt->target->columns[index];
    const struct map_rule *from = NULL;
    const char *rule = rules_up(d, link, target->name, &from);
    int source = -1;
    for (size_t i = 0; i < mt->nsource && source < 0; i++)
        if (link->image[i] == (int) index)
            source = (int) i;
    if (rule && target->generated) {
        rule_error(err, from, "up.%s: green computes this column itself (it is generated)",
                   target->name);
        return error_hint(err, "Take the rule away.");
    }
    if (rule) {
        add_rule(mt, target, rule);
    } else if (source >= 0 && !target->generated) {
        add_copy(mt, link, target, source);
    } else if (lost_generation(mt, link, target)) {
        say_unresolved(
            link,
            "column %s is generated on blue, so its values are not in the log, and on green it "
            "is a plain column: add up.%s = ... under [map %s.%s]",
            target->sql_name, target->name, mt->source->schema, mt->source->name);
    } else {
        add_rest(d, mt, link, target);
    }
    return true;
}

static bool mark_volatile(struct map_table *mt, const struct map_rule *rule, const char *name,
                          struct error *err)
{
    for (size_t c = 0; c < mt->ncolumns; c++) {
        if (strcmp(mt->columns[c].target->name, name) != 0)
            continue;
        mt->columns[c].volatile_value = true;
        return true;
    }
    for (size_t i = 0; i < mt->nrest; i++) {
        if (strcmp(mt->rest[i].target->name, name) != 0)
            continue;
        if (mt->rest[i].kind != MAP_REST_GENERATED)
            mt->rest[i].kind = MAP_REST_VOLATILE;
        return true;
    }
    if (rule_is_wild(rule) || cat_column(mt->target, name))
        return true;
    rule_error(err, rule, "volatile: no column \"%s\" in %s on green", name, mt->target->sql_name);
    rule_hint_column(err, mt->target, name);
    return false;
}

static bool mark_volatiles(struct map_table *mt, const struct link *link, struct error *err)
{
    for (size_t i = 0; i < link->nrules; i++) {
        const struct map_rule *rule = link->rules[i];
        for (size_t k = 0; rule->volatiles && rule->volatiles[k]; k++)
            if (!mark_volatile(mt, rule, rule->volatiles[k], err))
                return false;
    }
    return true;
}

bool derive_columns(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    derive_source(d, mt, link);
    for (size_t i = 0; i < mt->nsource; i++) {
        const struct cat_column *target = follow(mt, link, mt->source_columns[i]);
        link->image[i] = target ? (int) (target - mt->target->columns) : -1;
    }
    for (size_t i = 0; i < mt->target->ncolumns; i++)
        if (!add_target_column(d, mt, link, i, err))
            return false;
    return check_defaults(d, mt, err) && mark_volatiles(mt, link, err) &&
           check_needs(d, mt, link, err) && check_types(d, mt, link, err);
}

static bool copies_everything(const struct map_table *mt)
{
    if (mt->ncolumns != mt->nsource)
        return false;
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (mt->columns[c].rule || !mt->columns[c].same_type || mt->columns[c].volatile_value)
            return false;
    for (size_t i = 0; i < mt->nrest; i++)
        if (mt->rest[i].kind != MAP_REST_GENERATED)
            return false;
    return true;
}

/* An unchanged TOAST value is not sent. A rule over that column alone leaves its target as it is;
 * one that reads another column besides needs the value. */
static bool needs_full(const struct map_table *mt)
{
    for (size_t c = 0; c < mt->ncolumns; c++) {
        const struct map_column *col = &mt->columns[c];
        for (size_t i = 0; i < col->nneeds && col->nneeds > 1; i++)
            if (mt->source_columns[col->needs[i]]->toastable)
                return true;
    }
    return false;
}

void derive_summary(struct derive *d, struct map_table *mt, struct link *link)
{
    mt->identical = copies_everything(mt) && !link->unresolved.len;
    mt->wants_full = needs_full(mt);
    size_t nindexes = 0;
    const struct index_info *indexes = server_indexes_of(d, mt->target->oid, &nindexes);
    for (size_t c = 0; c < mt->ncolumns; c++) {
        struct map_column *col = &mt->columns[c];
        col->equals = xstrdup(oid_texts_find(&d->equals, col->target->type));
        for (size_t i = 0; i < nindexes; i++)
            if (indexes[i].n > 0 && indexes[i].columns[0] == col->target->attnum)
                col->indexed = true;
    }
}
