/*
 * classify.c - what one statement is, from PostgreSQL's own parse tree (libpg_query gives it as
 * JSON). Only statements whose first word makes them a candidate are parsed: a file of a million
 * INSERTs costs nothing here.
 */
#include "migrate/script.h"

#include "base/alloc.h"

#include <ctype.h>
#include <jansson.h>
#include <pg_query.h>
#include <stdlib.h>
#include <strings.h>

static bool starts_with_word(const char *text, size_t len, const char *word)
{
    size_t n = strlen(word);
    return len >= n && strncasecmp(text, word, n) == 0 &&
           (len == n || !(isalnum((unsigned char) text[n]) || text[n] == '_'));
}

static bool is_candidate(const char *text, size_t len)
{
    static const char *const words[] = {
        "create", "drop", "reindex", "vacuum",   "alter",     "cluster", "begin",   "start",
        "commit", "end",  "abort",   "rollback", "savepoint", "release", "prepare", "copy",
        "call",   "do",   "discard", "set",      "reset",     NULL};
    for (size_t i = 0; words[i]; i++)
        if (starts_with_word(text, len, words[i]))
            return true;
    return false;
}

static const char *string_at(const json_t *node, const char *key)
{
    const char *s = json_string_value(json_object_get(node, key));
    return s ? s : "";
}

static bool is_true(const json_t *node, const char *key)
{
    return json_is_true(json_object_get(node, key));
}

static void add_quoted(struct strbuf *sb, const char *name)
{
    strbuf_addch(sb, '"');
    for (const char *p = name; *p; p++) {
        if (*p == '"')
            strbuf_addch(sb, '"');
        strbuf_addch(sb, *p);
    }
    strbuf_addch(sb, '"');
}

/* A DefElem of that name that isn't switched off: REINDEX (CONCURRENTLY false). */
static bool has_option(const json_t *list, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        const json_t *def = json_object_get(item, "DefElem");
        if (strcmp(string_at(def, "defname"), name) != 0)
            continue;
        const json_t *arg = json_object_get(def, "arg");
        const char *text = string_at(json_object_get(arg, "String"), "sval");
        const json_t *number = json_object_get(arg, "Integer");
        bool off = strcasecmp(text, "false") == 0 || strcasecmp(text, "off") == 0 ||
                   (number && json_integer_value(json_object_get(number, "ival")) == 0);
        return !off;
    }
    return false;
}

static void classify_index(struct statement *st, const json_t *node)
{
    const json_t *relation = json_object_get(node, "relation");
    const char *name = string_at(node, "idxname");
    const char *schema = string_at(relation, "schemaname");
    struct strbuf table = {0};

    st->builds_index = true;
    if (is_true(node, "concurrent"))
        st->kind = STATEMENT_INDEX_ALONE;
    if (*name)
        st->index = xstrdup(name);
    if (*schema) {
        add_quoted(&table, schema);
        strbuf_addch(&table, '.');
    }
    add_quoted(&table, string_at(relation, "relname"));
    st->table = strbuf_take(&table);
}

/* https://www.postgresql.org/docs/15/sql-reindex.html: "REINDEX SYSTEM/DATABASE/SCHEMA cannot be
 * executed inside a transaction block", neither can CONCURRENTLY. */
static void classify_reindex(struct statement *st, const json_t *node)
{
    const char *kind = string_at(node, "kind");
    const char *name = string_at(json_object_get(node, "relation"), "relname");

    st->builds_index = true;
    if (has_option(json_object_get(node, "params"), "concurrently") ||
        strcmp(kind, "REINDEX_OBJECT_SCHEMA") == 0 ||
        strcmp(kind, "REINDEX_OBJECT_DATABASE") == 0 || strcmp(kind, "REINDEX_OBJECT_SYSTEM") == 0)
        st->kind = STATEMENT_ALONE;
    if (*name)
        st->index = xstrdup(name);
}

static bool detaches_concurrently(const json_t *node)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(node, "cmds"), i, item)
    {
        const json_t *def = json_object_get(json_object_get(item, "AlterTableCmd"), "def");
        if (is_true(json_object_get(def, "PartitionCmd"), "concurrent"))
            return true;
    }
    return false;
}

/* COMMIT or ROLLBACK as a statement of PL/pgSQL: the word, then a semicolon or AND CHAIN. */
static bool body_commits(const char *body)
{
    static const char *const words[] = {"commit", "rollback"};
    for (const char *p = body; *p; p++) {
        if (p > body && (isalnum((unsigned char) p[-1]) || p[-1] == '_'))
            continue;
        for (size_t i = 0; i < 2; i++) {
            size_t n = strlen(words[i]);
            if (strncasecmp(p, words[i], n) != 0)
                continue;
            const char *after = p + n;
            while (isspace((unsigned char) *after))
                after++;
            if (*after == ';' || (after > p + n && strncasecmp(after, "and", 3) == 0))
                return true;
        }
    }
    return false;
}

static void classify_do(struct statement *st, const json_t *node)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(node, "args"), i, item)
    {
        const json_t *def = json_object_get(item, "DefElem");
        const json_t *body = json_object_get(json_object_get(def, "arg"), "String");
        if (strcmp(string_at(def, "defname"), "as") == 0 && body_commits(string_at(body, "sval")))
            st->kind = STATEMENT_COMMITS;
    }
}

static bool classify_copy(const json_t *node, struct error *err)
{
    if (*string_at(node, "filename"))
        return true;
    return error_set(err, ERR_MIGRATION, "COPY %s can't stand in a migration file",
                     is_true(node, "is_from") ? "FROM stdin" : "TO stdout");
}

static void classify_set(struct statement *st, const json_t *node)
{
    const char *kind = string_at(node, "kind");
    /* SET TRANSACTION is VAR_SET_MULTI, as SET LOCAL bound to its transaction */
    if (!is_true(node, "is_local") && strcmp(kind, "VAR_SET_MULTI") != 0)
        st->kind = STATEMENT_SESSION;
}

/* Statements that call PreventInTransactionBlock() whatever their options are. */
static bool is_always_alone(const char *tag)
{
    static const char *const tags[] = {"CreatedbStmt",         "DropdbStmt",
                                       "CreateTableSpaceStmt", "DropTableSpaceStmt",
                                       "AlterSystemStmt",      "CreateSubscriptionStmt",
                                       "DropSubscriptionStmt", NULL};
    for (size_t i = 0; tags[i]; i++)
        if (strcmp(tag, tags[i]) == 0)
            return true;
    return false;
}

static bool classify_node(struct statement *st, const char *tag, const json_t *node,
                          struct error *err)
{
    bool alone = is_always_alone(tag);

    if (strcmp(tag, "CopyStmt") == 0)
        return classify_copy(node, err);
    if (strcmp(tag, "TransactionStmt") == 0)
        st->kind = STATEMENT_TRANSACTION;
    else if (strcmp(tag, "IndexStmt") == 0)
        classify_index(st, node);
    else if (strcmp(tag, "ReindexStmt") == 0)
        classify_reindex(st, node);
    else if (strcmp(tag, "DropStmt") == 0)
        alone = is_true(node, "concurrent");
    else if (strcmp(tag, "VacuumStmt") == 0)
        alone = is_true(node, "is_vacuumcmd");
    else if (strcmp(tag, "ClusterStmt") == 0)
        alone = !json_object_get(node, "relation");
    else if (strcmp(tag, "AlterTableStmt") == 0)
        alone = detaches_concurrently(node);
    else if (strcmp(tag, "AlterDatabaseStmt") == 0)
        alone = has_option(json_object_get(node, "options"), "tablespace");
    else if (strcmp(tag, "AlterSubscriptionStmt") == 0)
        alone = strcmp(string_at(node, "kind"), "ALTER_SUBSCRIPTION_REFRESH") == 0;
    else if (strcmp(tag, "DiscardStmt") == 0)
        alone = strcmp(string_at(node, "target"), "DISCARD_ALL") == 0;
    else if (strcmp(tag, "DoStmt") == 0)
        classify_do(st, node);
    else if (strcmp(tag, "CallStmt") == 0)
        st->kind = STATEMENT_CALL;
    else if (strcmp(tag, "VariableSetStmt") == 0)
        classify_set(st, node);
    if (alone)
        st->kind = STATEMENT_ALONE;
    return true;
}

/* pg_dump's way to set the search_path: SELECT pg_catalog.set_config('search_path', '', false) */
static bool is_set_config(const char *text, size_t len)
{
    if (!starts_with_word(text, len, "select") || len > 300)
        return false;
    for (size_t i = 6; i + 11 <= len; i++)
        if (strncasecmp(text + i, "set_config(", 11) == 0)
            return true;
    return false;
}

bool statement_classify(struct statement *st, const char *text, struct error *err)
{
    const char *p = text + st->offset;
    bool ok = true;

    st->kind = is_set_config(p, st->len) ? STATEMENT_SESSION : STATEMENT_PLAIN;
    if (!is_candidate(p, st->len))
        return true;
    char *sql = xstrndup(p, st->len);
    PgQueryParseResult r = pg_query_parse(sql);
    json_t *tree = r.error ? NULL : json_loads(r.parse_tree, 0, NULL);
    const json_t *first = json_array_get(json_object_get(tree, "stmts"), 0);
    void *tag = json_object_iter(json_object_get(first, "stmt"));
    if (tag)
        ok = classify_node(st, json_object_iter_key(tag), json_object_iter_value(tag), err);
    json_decref(tree);
    pg_query_free_parse_result(r);
    free(sql);
    return ok;
}
