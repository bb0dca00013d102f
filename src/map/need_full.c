/*
 * need_full.c - which tables need REPLICA IDENTITY FULL for the sake of a rule, told from the
 * rule's text alone: this is asked before green exists. Errs to the safe side: a word that only
 * looks like a column counts as one.
 */
#include "derive.h"

#include "base/alloc.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct words {
    char **items;
    size_t n, cap;
    bool row; /* r by itself, or r.* */
};

static bool is_word(char c)
{
    return isalnum((unsigned char) c) || c == '_' || c == '$' || ((unsigned char) c & 0x80);
}

static const char *skip_space(const char *p)
{
    while (isspace((unsigned char) *p))
        p++;
    return p;
}

/* "Odd ""Name""" from the quote on; returns what follows it. */
static const char *quoted_word(const char *p, struct words *out)
{
    struct strbuf sb = {0};
    for (p++; *p && (*p != '"' || p[1] == '"'); p++) {
        p += *p == '"';
        strbuf_addch(&sb, *p);
    }
    *VEC_ADD(out->items, out->n, out->cap) = strbuf_take(&sb);
    return *p ? p + 1 : p;
}

/* Unquoted names are folded, as the server does. */
static const char *plain_word(const char *p, struct words *out)
{
    struct strbuf sb = {0};
    for (; is_word(*p); p++)
        strbuf_addch(&sb, (char) tolower((unsigned char) *p));
    if (strcmp(sb.data, "r") == 0) {
        const char *next = skip_space(p);
        if (*next != '.' || *skip_space(next + 1) == '*')
            out->row = true;
    }
    *VEC_ADD(out->items, out->n, out->cap) = strbuf_take(&sb);
    return p;
}

static void split(const char *expr, struct words *out)
{
    for (const char *p = expr; *p;) {
        if (*p == '"')
            p = quoted_word(p, out);
        else if (is_word(*p))
            p = plain_word(p, out);
        else
            p++;
    }
}

static bool has_word(const struct words *words, const char *name)
{
    for (size_t i = 0; i < words->n; i++)
        if (strcmp(words->items[i], name) == 0)
            return true;
    return false;
}

/* A toastable column among several: its value is missing from an UPDATE that leaves it alone. A
 * rule that reads that column only is left out of such an UPDATE, and all is well. */
static bool expr_needs_full(const struct cat_table *t, const char *expr)
{
    struct words words = {0};
    size_t read = 0;
    bool toastable = false;
    split(expr, &words);
    for (size_t i = 0; i < t->ncolumns; i++) {
        if (!words.row && !has_word(&words, t->columns[i].name))
            continue;
        read++;
        toastable = toastable || t->columns[i].toastable;
    }
    for (size_t i = 0; i < words.n; i++)
        free(words.items[i]);
    free(words.items);
    return toastable && read > 1;
}

static bool table_needs_full(const struct catalog *blue, const struct cat_table *t,
                             const struct map_rule *rules, size_t nrules)
{
    bool full = false;
    for (size_t i = 0; i < nrules; i++) {
        if (!rule_matches(&rules[i], blue, t))
            continue;
        if (rules[i].skip)
            return false;
        for (size_t u = 0; u < rules[i].nup; u++)
            full = full || expr_needs_full(t, rules[i].up[u].expr);
    }
    return full;
}

bool map_rules_need_full(const struct catalog *blue, const struct map_rule *rules, size_t nrules,
                         Oid **oids, struct error *err)
{
    size_t n = 0, cap = 0;
    *oids = NULL;
    if (!rules_check_tables(blue, rules, nrules, err))
        return false;
    for (size_t i = 0; i < blue->ntables; i++)
        if (blue->tables[i].relkind == 'r' && blue->tables[i].persistence == 'p' &&
            table_needs_full(blue, &blue->tables[i], rules, nrules))
            *VEC_ADD(*oids, n, cap) = blue->tables[i].oid;
    *VEC_ADD(*oids, n, cap) = 0;
    return true;
}
