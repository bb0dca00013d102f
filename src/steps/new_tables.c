#include "steps/new_tables.h"

#include "base/alloc.h"
#include "base/event.h"
#include "migrate/migrate.h"
#include "migrate/script.h"
#include "pg/trigger.h"
#include "sys/file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FILE_CEILING ((size_t) 64 << 20)

bool is_history_table(const struct cutover *c, const char *schema, const char *name)
{
    /* Flyway, Rails, golang-migrate, dbmate, Django, Alembic, Knex, Prisma, Liquibase, goose,
     * Sequelize, TypeORM, EF */
    static const char *const known[] = {
        "flyway_schema_history", "schema_migrations",     "ar_internal_metadata",
        "django_migrations",     "alembic_version",       "knex_migrations",
        "knex_migrations_lock",  "_prisma_migrations",    "databasechangelog",
        "databasechangeloglock", "goose_db_version",      "SequelizeMeta",
        "typeorm_migrations",    "__EFMigrationsHistory", NULL};
    char *full = xstrfmt("%s.%s", schema, name);
    bool yes = strcmp(full, playbook_str(cutover_section(c, "migrations"), "history_table")) == 0;

    for (size_t i = 0; known[i] && !yes; i++)
        yes = strcmp(name, known[i]) == 0;
    free(full);
    return yes;
}

static bool is_accepted(const struct cutover *c, const struct cat_table *t)
{
    const char *const *list = playbook_list(cutover_section(c, "migrations"), "accept_tables");
    char *full = xstrfmt("%s.%s", t->schema, t->name);
    bool yes = is_history_table(c, t->schema, t->name);

    for (size_t i = 0; list && list[i] && !yes; i++)
        yes = strcmp(list[i], full) == 0;
    free(full);
    return yes;
}

/* ---- what the migrations say of a table ---- */

struct mention {
    const char *name;
    bool values; /* an INSERT ... VALUES */
    bool other;  /* anything that may have filled it from elsewhere */
};

static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = text; (p = strcasestr(p, word)); p++) {
        bool begins = p == text || !(isalnum((unsigned char) p[-1]) || p[-1] == '_');
        bool ends = !(isalnum((unsigned char) p[n]) || p[n] == '_');

        if (begins && ends)
            return true;
    }
    return false;
}

static bool begins(const char *text, const char *word)
{
    return strncasecmp(text, word, strlen(word)) == 0 &&
           !isalnum((unsigned char) text[strlen(word)]);
}

static void judge_statement(void *ctx, const char *text)
{
    struct mention *m = ctx;
    static const char *const harmless[] = {"ALTER", "COMMENT", "GRANT",  "REVOKE",
                                           "DROP",  "ANALYZE", "VACUUM", NULL};

    if (!has_word(text, m->name))
        return;
    for (size_t i = 0; harmless[i]; i++)
        if (begins(text, harmless[i]))
            return;
    if (begins(text, "INSERT") && has_word(text, "VALUES") && !has_word(text, "SELECT"))
        m->values = true;
    else if (!begins(text, "CREATE") || has_word(text, "SELECT") || has_word(text, "FUNCTION") ||
             has_word(text, "TRIGGER") || has_word(text, "PROCEDURE"))
        m->other = true;
}

/* Calls look for every statement of the migrations. */
static bool each_statement(const struct cutover *c, void (*look)(void *ctx, const char *text),
                           void *ctx, struct error *err)
{
    const char *directory = playbook_str(cutover_section(c, "migrations"), "directory");
    struct migration_list list = {0};
    bool ok = !directory || migrate_list(directory, &list, err);

    for (size_t i = 0; ok && i < list.n; i++) {
        const struct migration *file = &list.items[i];
        struct strbuf text = {0};
        struct script script = {0};

        ok = file_read(file->path, &text, FILE_CEILING, err) &&
             script_parse(&script, file->file, text.data, text.len, file->numbered, err);
        for (size_t k = 0; ok && k < script.n; k++) {
            char *one = xstrndup(script.text + script.items[k].offset, script.items[k].len);

            look(ctx, one);
            free(one);
        }
        script_release(&script);
        strbuf_release(&text);
    }
    migrate_list_release(&list);
    return ok;
}

/* True when nothing but INSERT ... VALUES can have put rows there. */
static bool filled_by_values(const struct cutover *c, const struct cat_table *t, bool *yes,
                             struct error *err)
{
    struct mention m = {.name = t->name};
    bool ok = each_statement(c, judge_statement, &m, err);

    *yes = m.values && !m.other;
    return ok;
}

static bool is_sound(struct cutover *c, const struct cat_table *t, struct error *err)
{
    bool rows = false, values = false;

    if (is_accepted(c, t))
        return true;
    if (!table_has_rows(c->green.pg, t->sql_name, &rows, err))
        return false;
    if (!rows)
        return true;
    if (!filled_by_values(c, t, &values, err))
        return false;
    if (values) {
        event_info("new table %s holds the rows that the migrations' VALUES put there",
                   t->sql_name);
        return true;
    }
    error_set(err, ERR_NOGO,
              "new table %s holds rows that the migrations made, and nothing would replay to it",
              t->sql_name);
    error_detail(
        err,
        "What blue writes from now on to the tables that it was filled from would not reach it.");
    return error_hint(
        err,
        "If it needs nothing from blue's later writes, set [migrations] accept_tables = %s.%s and "
        "`pgcutover resume %s --playbook FILE`. A table rebuilt under another name: say so by "
        "[map old.name] table = %s.%s.",
        t->schema, t->name, c->names.run, t->schema, t->name);
}

static bool warn_of_triggers(struct cutover *c, struct error *err)
{
    char *list = NULL;
    bool ok = side_connect(c, &c->blue, err) && triggers_new(c->blue.pg, c->green.pg, &list, err);

    if (ok && *list)
        event_warn("triggers that only green has do not fire for replayed rows; what they would "
                   "have done for blue's "
                   "later writes is missing:\n%s",
                   list);
    free(list);
    return ok;
}

/* ---- columns whose default is drawn by clock or chance, and that the migrations set as well ----
 */

static bool is_volatile_by_rule(const struct cutover *c, const struct map_table *mt,
                                const char *column)
{
    char *full = xstrfmt("%s.%s", mt->source->schema, mt->source->name);
    char *any = xstrfmt("*.%s", mt->source->name);
    bool yes = false;

    for (size_t i = 0; i < c->nrules && !yes; i++) {
        const struct map_rule *r = &c->rules[i];

        if (strcmp(r->section, full) != 0 && strcmp(r->section, any) != 0)
            continue;
        for (size_t k = 0; r->volatiles && r->volatiles[k] && !yes; k++)
            yes = strcmp(r->volatiles[k], column) == 0;
    }
    free(full);
    free(any);
    return yes;
}

struct setting {
    const struct map_table *mt;
    const char *column;
    bool found;
};

static void look_for_setting(void *ctx, const char *text)
{
    struct setting *s = ctx;
    bool writes = begins(text, "UPDATE") || begins(text, "WITH") || begins(text, "DO") ||
                  begins(text, "MERGE");

    s->found =
        s->found || (writes && has_word(text, s->column) &&
                     (has_word(text, s->mt->target->name) || has_word(text, s->mt->source->name)));
}

static bool column_is_sound(struct cutover *c, const struct map_table *mt, const char *column,
                            struct error *err)
{
    struct setting s = {.mt = mt, .column = column};

    if (is_volatile_by_rule(c, mt, column))
        return true;
    if (!each_statement(c, look_for_setting, &s, err))
        return false;
    if (!s.found)
        return true;
    error_set(
        err, ERR_NOGO,
        "column %s of %s has a default by clock, chance or sequence, and the migrations set it too",
        column, mt->target->sql_name);
    error_detail(err, "Nothing tells what rows that blue writes later should hold there, and "
                      "nothing could prove it.");
    return error_hint(
        err,
        "Under [map %s.%s] say up.%s = ..., or volatile = %s when any value will do; then "
        "`pgcutover resume %s --playbook FILE`.",
        mt->source->schema, mt->source->name, column, column, c->names.run);
}

static bool volatile_columns_are_sound(struct cutover *c, struct error *err)
{
    bool ok = true;

    for (size_t i = 0; ok && i < c->map.ntables; i++) {
        const struct map_table *mt = &c->map.tables[i];

        for (size_t k = 0; ok && !mt->skipped && k < mt->nrest; k++)
            if (mt->rest[k].kind == MAP_REST_VOLATILE && !mt->rest[k].target->identity)
                ok = column_is_sound(c, mt, mt->rest[k].target->name, err);
    }
    return ok;
}

bool new_tables_are_sound(struct cutover *c, struct error *err)
{
    for (size_t i = 0; i < c->map.nnew_tables; i++)
        if (!is_sound(c, c->map.new_tables[i], err))
            return false;
    return volatile_columns_are_sound(c, err) && warn_of_triggers(c, err);
}
