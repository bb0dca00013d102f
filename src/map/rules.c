/* rules.c - the [map ...] sections of the playbook: which tables they speak of, and what they say.
 */
#include "derive.h"

#include "base/alloc.h"
#include "base/human.h"

#include <stdlib.h>
#include <string.h>

bool rule_is_wild(const struct map_rule *rule)
{
    return strncmp(rule->section, "*.", 2) == 0;
}

/* text is t's name as people write it: with its schema, quoted or not; a bare one means public. */
static bool names_table(const char *text, const struct cat_table *t)
{
    size_t len = strlen(t->schema);
    if (strcmp(text, t->sql_name) == 0)
        return true;
    if (strncmp(text, t->schema, len) == 0 && text[len] == '.' &&
        strcmp(text + len + 1, t->name) == 0)
        return true;
    return strcmp(t->schema, "public") == 0 && strcmp(text, t->name) == 0;
}

static bool names_wildly(const char *text, const struct cat_table *t)
{
    size_t len = strlen(t->sql_name), rest = strlen(text);
    if (strncmp(text, "*.", 2) != 0)
        return false;
    if (strcmp(text + 2, t->name) == 0)
        return true;
    /* *."Odd Name" */
    return rest > 2 && len >= rest - 1 && strcmp(text + 1, t->sql_name + len - (rest - 1)) == 0 &&
           text[2] == '"';
}

/* 0: no; the higher, the more particular */
static int match(const struct map_rule *rule, const struct catalog *blue,
                 const struct cat_table *leaf)
{
    const struct cat_table *root = root_of(blue, leaf);
    if (names_table(rule->section, leaf))
        return 4;
    if (names_table(rule->section, root))
        return 3;
    if (names_wildly(rule->section, leaf))
        return 2;
    return names_wildly(rule->section, root) ? 1 : 0;
}

bool rule_matches(const struct map_rule *rule, const struct catalog *blue,
                  const struct cat_table *leaf)
{
    return match(rule, blue, leaf) > 0;
}

void rules_find(struct derive *d, struct link *link, const struct cat_table *leaf)
{
    for (int level = 1; level <= 4; level++)
        for (size_t i = 0; i < d->nrules; i++)
            if (match(&d->rules[i], d->blue, leaf) == level) {
                *VEC_ADD(link->rules, link->nrules, link->caprules) = &d->rules[i];
                d->matched[i] = true;
            }
    for (size_t i = 0; i < link->nrules; i++)
        link->skip_rule = link->skip_rule || link->rules[i]->skip;
}

bool rule_error(struct error *err, const struct map_rule *rule, const char *fmt, ...)
{
    struct strbuf sb = {0};
    va_list ap;
    va_start(ap, fmt);
    strbuf_addv(&sb, fmt, ap);
    va_end(ap);
    error_set(err, ERR_PLAYBOOK, "playbook line %d: [map %s]: %s", rule->line, rule->section,
              strbuf_cstr(&sb));
    strbuf_release(&sb);
    return false;
}

static bool no_table(struct error *err, const struct map_rule *rule, const char *word,
                     const struct catalog *cat, const char *where)
{
    char **names = xcalloc(cat->ntables + 1, sizeof *names);
    for (size_t i = 0; i < cat->ntables; i++)
        names[i] = strncmp(word, "*.", 2) == 0
                       ? xstrfmt("*.%s", cat->tables[i].name)
                       : xstrfmt("%s.%s", cat->tables[i].schema, cat->tables[i].name);
    const char *near = human_nearest(word, (const char *const *) names);
    if (near)
        rule_error(err, rule, "no table \"%s\" on %s, did you mean \"%s\"?", word, where, near);
    else
        rule_error(err, rule, "no table \"%s\" on %s", word, where);
    error_hint(err,
               "Write the section as [map schema.table], with the name that the table has now.");
    for (size_t i = 0; i < cat->ntables; i++)
        free(names[i]);
    free(names);
    return false;
}

bool rules_check_tables(const struct catalog *blue, const struct map_rule *rules, size_t nrules,
                        struct error *err)
{
    for (size_t i = 0; i < nrules; i++) {
        size_t k = 0;
        while (k < blue->ntables &&
               (blue->tables[k].relkind != 'r' || !rule_matches(&rules[i], blue, &blue->tables[k])))
            k++;
        if (k < blue->ntables)
            continue;
        /* a partitioned table that has no partition yet is no mistake */
        for (k = 0; k < blue->ntables; k++)
            if (blue->tables[k].relkind == 'p' && rule_matches(&rules[i], blue, &blue->tables[k]))
                break;
        if (k == blue->ntables)
            return no_table(err, &rules[i], rules[i].section, blue, "blue");
    }
    return true;
}

const char *rules_table(const struct link *link, const struct map_rule **from)
{
    for (size_t i = link->nrules; i-- > 0;) {
        *from = link->rules[i];
        if (link->rules[i]->table)
            return link->rules[i]->table;
    }
    return NULL;
}

const char *const *rules_key(const struct link *link, const struct map_rule **from)
{
    for (size_t i = link->nrules; i-- > 0;) {
        *from = link->rules[i];
        if (link->rules[i]->key && link->rules[i]->key[0])
            return link->rules[i]->key;
    }
    return NULL;
}

const char *rules_up(struct derive *d, const struct link *link, const char *column,
                     const struct map_rule **from)
{
    const char *expr = NULL;
    for (size_t i = link->nrules; i-- > 0;) {
        const struct map_rule *rule = link->rules[i];
        for (size_t u = 0; u < rule->nup; u++) {
            if (strcmp(rule->up[u].column, column) != 0)
                continue;
            d->used[rule - d->rules][u] = true;
            if (!expr) {
                expr = rule->up[u].expr;
                *from = rule;
            }
        }
    }
    return expr;
}

void rule_hint_column(struct error *err, const struct cat_table *t, const char *word)
{
    const char **names = xcalloc(t->ncolumns + 1, sizeof *names);
    for (size_t i = 0; i < t->ncolumns; i++)
        names[i] = t->columns[i].name;
    const char *near = human_nearest(word, names);
    if (near)
        error_hint(err, "Did you mean \"%s\"?", near);
    free(names);
}

bool rules_check_columns(struct derive *d, struct error *err)
{
    for (size_t i = 0; i < d->nrules; i++) {
        const struct map_rule *rule = &d->rules[i];
        for (size_t u = 0; u < rule->nup; u++) {
            const char *column = rule->up[u].column;
            if (d->used[i][u] || rule->skip || !d->matched[i])
                continue;
            if (!d->tried[i]) {
                rule_error(err, rule, "up.%s: the table has nowhere to go on green", column);
                return error_hint(err, "Say table = schema.name, or skip = yes.");
            }
            rule_error(err, rule, "no column \"%s\" in %s on green", column, d->tried[i]->sql_name);
            rule_hint_column(err, d->tried[i], column);
            return false;
        }
    }
    return true;
}

/* rule->table, looked up by derive_target; here because the message is the same */
bool rules_find_target(struct derive *d, const struct map_rule *rule, const char *text,
                       const struct cat_table *source, const struct cat_table **out,
                       struct error *err)
{
    for (size_t i = 0; i < d->green->ntables; i++) {
        const struct cat_table *t = &d->green->tables[i];
        bool same_schema = strcmp(t->schema, source->schema) == 0;
        if (t->relkind != 'f' && (names_table(text, t) || (same_schema && names_wildly(text, t)))) {
            *out = t;
            return true;
        }
    }
    return no_table(err, rule, text, d->green, "green");
}
