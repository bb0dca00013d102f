/*
 * identity.c - replica identities: making the missing ones, putting the old ones back.
 *
 * ALTER TABLE ... REPLICA IDENTITY takes an ACCESS EXCLUSIVE lock: a table at a time, for a moment,
 * with a short lock_timeout. The old setting is saved in the transaction that changes it, and
 * deleted in the one that puts it back, so that a crash at any point leaves the one or the other.
 */
#include "pg/facts.h"

#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define IDENTITY_LOCK_MS 200

static bool listed(const Oid *oids, Oid oid)
{
    for (; oids && *oids; oids++)
        if (*oids == oid)
            return true;
    return false;
}

static bool fix_one(struct pg *pg, const char *run, const struct cat_table *t, bool full,
                    struct error *err)
{
    struct strbuf sql = {0};
    bool ok;

    strbuf_addf(&sql, "ALTER TABLE ONLY %s REPLICA IDENTITY ", t->sql_name);
    if (full || !t->unique_indexes[0])
        strbuf_addstr(&sql, "FULL");
    else /* the grammar wants the index's name alone: it is in the table's schema */
        strbuf_addf(&sql, "USING INDEX %s", t->unique_indexes[0] + strlen(t->sql_schema) + 1);
    /* after the lock is ours: what is saved is what is replaced */
    strbuf_addstr(&sql, "; INSERT INTO pgcutover.saved_identity (run, relation, schema, name, "
                        "replident, index_name) VALUES (");
    pg_add_literal(&sql, run);
    strbuf_addf(&sql, ", %u, ", t->oid);
    pg_add_literal(&sql, t->schema);
    strbuf_addstr(&sql, ", ");
    pg_add_literal(&sql, t->name);
    strbuf_addf(&sql, ", '%c', ", t->replident);
    if (t->replident_index)
        pg_add_literal(&sql, t->replident_index + strlen(t->sql_schema) + 1);
    else
        strbuf_addstr(&sql, "NULL");
    strbuf_addstr(&sql, ") ON CONFLICT (run, relation) DO NOTHING");
    ok = pg_ddl_on(pg, t->oid, strbuf_cstr(&sql), IDENTITY_LOCK_MS, clock_in_ms(DDL_DEADLINE_MS),
                   err);
    strbuf_release(&sql);
    return ok || error_push(err, "replica identity of %s", t->sql_name);
}

bool identity_fix(struct pg *pg, const char *run, const struct catalog *cat, const Oid *need_full,
                  int *changed, struct error *err)
{
    *changed = 0;
    for (size_t i = 0; i < cat->ntables; i++) {
        const struct cat_table *t = &cat->tables[i];
        bool full = listed(need_full, t->oid);
        if (t->relkind != 'r' || t->persistence != 'p' || t->replident == 'f' || (t->nkey && !full))
            continue;
        if (!fix_one(pg, run, t, full, err))
            return false;
        ++*changed;
    }
    return true;
}

static void add_old(struct strbuf *sql, const char *table, char replident, const char *index)
{
    strbuf_addf(sql, "ALTER TABLE ONLY %s REPLICA IDENTITY ", table);
    if (replident == 'd')
        strbuf_addstr(sql, "DEFAULT");
    else if (replident == 'f')
        strbuf_addstr(sql, "FULL");
    else if (replident == 'i' && index)
        strbuf_addf(sql, "USING INDEX %s", index);
    else /* 'n', or 'i' whose index is gone, which has the same effect */
        strbuf_addstr(sql, "NOTHING");
}

/* The index's name was saved quoted. It counts only while such an index can serve. */
static const char restore_sql[] =
    "SELECT s.relation, pg_catalog.quote_ident(n.nspname) || '.' || "
    "pg_catalog.quote_ident(c.relname), s.replident, "
    "(SELECT pg_catalog.quote_ident(x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class "
    "x ON x.oid = "
    "i.indexrelid WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate "
    "AND i.indpred IS NULL "
    "AND pg_catalog.quote_ident(x.relname) = s.index_name), c.relreplident "
    "FROM pgcutover.saved_identity s LEFT JOIN pg_catalog.pg_class c ON c.oid = s.relation AND "
    "c.relkind = 'r' "
    "LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE s.run = $1 ORDER BY "
    "s.relation";

bool identity_restore(struct pg *pg, const char *run, struct error *err)
{
    PGresult *res = NULL;
    struct strbuf sql = {0};
    bool there = false, ok = true;

    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(pg, &res, PG_ANY, restore_sql, 1, &run, err))
        return false;
    for (int r = 0; ok && r < PQntuples(res); r++) {
        strbuf_reset(&sql);
        if (!PQgetisnull(res, r, 1)) {
            add_old(&sql, res_text(res, r, 1), res_char(res, r, 2),
                    PQgetisnull(res, r, 3) ? NULL : res_text(res, r, 3));
            strbuf_addstr(&sql, "; ");
        }
        strbuf_addf(&sql, "DELETE FROM pgcutover.saved_identity WHERE relation = %u AND run = ",
                    res_oid(res, r, 0));
        pg_add_literal(&sql, run);
        ok = pg_ddl_on(pg, res_oid(res, r, 0), strbuf_cstr(&sql), IDENTITY_LOCK_MS,
                       clock_in_ms(DDL_DEADLINE_MS), err) ||
             error_push(err, "replica identity of %s", res_text(res, r, 1));
    }
    strbuf_release(&sql);
    PQclear(res);
    return ok;
}

bool identity_copy_saved(struct pg *blue, struct pg *green, const char *run, struct error *err)
{
    PGresult *res = NULL, *found = NULL;
    struct strbuf sql = {0};
    bool ok = true;
    const char *lookup =
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), "
        "(SELECT pg_catalog.quote_ident(x.relname) FROM pg_catalog.pg_index i JOIN "
        "pg_catalog.pg_class x ON x.oid = "
        "i.indexrelid WHERE i.indrelid = c.oid AND pg_catalog.quote_ident(x.relname) = $3), c.oid "
        "FROM "
        "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'";

    if (!pg_query(blue, &res, PG_ANY,
                  "SELECT schema, name, index_name, replident FROM pgcutover.saved_identity WHERE "
                  "run = $1",
                  1, &run, err))
        return false;
    for (int r = 0; ok && r < PQntuples(res); r++) {
        const char *params[] = {res_text(res, r, 0), res_text(res, r, 1), res_text(res, r, 2)};
        ok = pg_query(green, &found, PG_ANY, lookup, 3, params, err);
        if (ok && PQntuples(found) == 1) {
            strbuf_reset(&sql);
            add_old(&sql, res_text(found, 0, 0), res_char(res, r, 3),
                    PQgetisnull(found, 0, 1) ? NULL : res_text(found, 0, 1));
            ok = pg_ddl_on(green, res_oid(found, 0, 2), strbuf_cstr(&sql), IDENTITY_LOCK_MS,
                           clock_in_ms(DDL_DEADLINE_MS), err);
        }
        PQclear(found);
        found = NULL;
    }
    strbuf_release(&sql);
    PQclear(res);
    return ok || error_push(err, "replica identities on green");
}
