/* server.c - questions that preflight asks. Making and dropping databases is in database.c. */
#include "pg/server.h"

#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static bool read_settings(struct pg *pg, struct server_facts *f, struct error *err)
{
    PGresult *res = NULL;
    char *sql = xstrfmt(
        "SELECT pg_catalog.current_setting('server_version'), "
        "pg_catalog.current_setting('is_superuser') = 'on', "
        "r.rolreplication OR r.rolsuper, r.rolcreatedb OR r.rolsuper, r.rolname, "
        "pg_catalog.current_setting('wal_level'), "
        "pg_catalog.current_setting('max_replication_slots'), (SELECT count(*) FROM "
        "pg_catalog.pg_replication_slots), "
        "pg_catalog.current_setting('max_wal_senders'), (SELECT count(*) FROM "
        "pg_catalog.pg_stat_replication), "
        "pg_catalog.current_setting('max_connections'), "
        "pg_catalog.current_setting('max_locks_per_transaction')::int8 * "
        "(pg_catalog.current_setting('max_connections')::int8 + "
        "pg_catalog.current_setting('max_prepared_transactions')::int8), %s, "
        "pg_catalog.pg_is_in_recovery(), "
        "r.rolsuper OR EXISTS (SELECT FROM pg_catalog.pg_roles m WHERE m.rolname IN "
        "('rds_superuser', "
        "'cloudsqlsuperuser', 'azure_pg_admin') AND pg_catalog.pg_has_role(m.oid, 'MEMBER')), "
        "pg_catalog.pg_database_size(d.oid), pg_catalog.pg_encoding_to_char(d.encoding), "
        "d.datcollate, d.datctype "
        "FROM pg_catalog.pg_database d, pg_catalog.pg_roles r "
        "WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user",
        pg_version(pg) >= 130000
            ? "(SELECT CASE WHEN setting::int8 < 0 THEN -1 ELSE setting::int8 * 1048576 END FROM "
              "pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size')"
            : "-1");
    bool ok = pg_query(pg, &res, 1, sql, 0, NULL, err);

    free(sql);
    if (!ok)
        return false;
    f->version = pg_version(pg);
    copy_text(f->version_text, sizeof f->version_text, res_text(res, 0, 0));
    f->superuser = res_bool(res, 0, 1);
    f->replication = res_bool(res, 0, 2);
    f->createdb = res_bool(res, 0, 3);
    copy_text(f->user, sizeof f->user, res_text(res, 0, 4));
    copy_text(f->wal_level, sizeof f->wal_level, res_text(res, 0, 5));
    f->max_slots = (int) res_int(res, 0, 6);
    f->used_slots = (int) res_int(res, 0, 7);
    f->max_senders = (int) res_int(res, 0, 8);
    f->used_senders = (int) res_int(res, 0, 9);
    f->max_connections = (int) res_int(res, 0, 10);
    f->max_locks = res_int(res, 0, 11);
    f->slot_keep_bytes = res_int(res, 0, 12);
    f->in_recovery = res_bool(res, 0, 13);
    f->event_triggers_ok = res_bool(res, 0, 14);
    f->database_bytes = res_int(res, 0, 15);
    copy_text(f->encoding, sizeof f->encoding, res_text(res, 0, 16));
    copy_text(f->collate, sizeof f->collate, res_text(res, 0, 17));
    copy_text(f->ctype, sizeof f->ctype, res_text(res, 0, 18));
    PQclear(res);
    return true;
}

#define NO_EXTENSION(class, alias)                                                                 \
    "NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = '" class "'::pg_catalog."    \
                                                                               "regclass AND "     \
                                                                               "e.objid = " alias  \
                                                                               ".oid AND "         \
                                                                               "e.deptype = 'e')"

static bool read_objects(struct pg *pg, struct server_facts *f, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT (SELECT count(*) FROM pg_catalog.pg_prepared_xacts WHERE database = "
        "pg_catalog.current_database()), "
        "(SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = "
        "c.relnamespace WHERE "
        "c.relpersistence = 'u' AND c.relkind = 'r' AND " USER_NAMESPACE "), "
        "(SELECT count(*) FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid "
        "= k.connamespace WHERE "
        "NOT k.convalidated AND " USER_NAMESPACE "), "
        "(SELECT count(*) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = "
        "i.indexrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid "
        "AND " USER_NAMESPACE "), "
        "(SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND "
        "database = "
        "pg_catalog.current_database() AND NOT pg_catalog.starts_with(slot_name, 'pgcutover')), "
        "(SELECT count(*) FROM pg_catalog.pg_stat_subscription s JOIN pg_catalog.pg_subscription b "
        "ON b.oid = s.subid "
        "WHERE b.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = "
        "pg_catalog.current_database()) "
        "AND s.relid IS NULL), "
        "(SELECT count(*) FROM pg_catalog.pg_event_trigger WHERE NOT "
        "pg_catalog.starts_with(evtname, "
        "'pgcutover_guard_')), "
        "(SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = "
        "c.relnamespace WHERE "
        "c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND " NO_EXTENSION(
            "pg_catalog.pg_class",
            "c") " AND " USER_NAMESPACE ") + (SELECT count(*) FROM pg_catalog.pg_proc p JOIN "
                 "pg_catalog.pg_namespace n ON n.oid = "
                 "p.pronamespace WHERE " NO_EXTENSION(
                     "pg_catalog.pg_proc",
                     "p") " AND " USER_NAMESPACE ") + "
                          "(SELECT count(*) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace "
                          "n ON n.oid = t.typnamespace WHERE "
                          "t.typtype IN ('e', 'd', 'r') AND " NO_EXTENSION(
                              "pg_catalog.pg_type",
                              "t") " AND " USER_NAMESPACE ") + "
                                   "(SELECT count(*) FROM pg_catalog.pg_namespace n WHERE "
                                   "n.nspname <> 'public' AND " NO_EXTENSION(
                                       "pg_catalog.pg_namespace",
                                       "n") " AND " USER_NAMESPACE ") + "
                                            "(SELECT count(*) FROM "
                                            "pg_catalog.pg_largeobject_metadata)";

    if (!pg_query(pg, &res, 1, sql, 0, NULL, err))
        return false;
    f->prepared_transactions = (int) res_int(res, 0, 0);
    f->unlogged_tables = (int) res_int(res, 0, 1);
    f->invalid_constraints = (int) res_int(res, 0, 2);
    f->invalid_indexes = (int) res_int(res, 0, 3);
    f->other_slots = (int) res_int(res, 0, 4);
    f->subscriptions = (int) res_int(res, 0, 5);
    f->event_triggers = (int) res_int(res, 0, 6);
    f->user_objects = (int) res_int(res, 0, 7);
    PQclear(res);
    return true;
}

bool server_facts_read(struct pg *pg, struct server_facts *out, struct error *err)
{
    memset(out, 0, sizeof *out);
    return (read_settings(pg, out, err) && read_objects(pg, out, err)) ||
           error_push(err, "asking %s", pg->where);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Names of the first query that the second one doesn't give. */
static bool difference(struct pg *blue, const char *blue_sql, struct pg *green,
                       const char *green_sql, char **missing, struct error *err)
{
    PGresult *have = NULL, *want = NULL;
    struct strbuf text = {0};
    const char **names = NULL;
    size_t n;
    bool ok = pg_query(blue, &want, PG_ANY, blue_sql, 0, NULL, err) &&
              pg_query(green, &have, PG_ANY, green_sql, 0, NULL, err);

    *missing = NULL;
    if (ok) {
        n = (size_t) PQntuples(have);
        names = xcalloc(n + 1, sizeof *names);
        for (size_t i = 0; i < n; i++)
            names[i] = res_text(have, (int) i, 0);
        qsort(names, n, sizeof *names, compare_names);
        for (int r = 0; r < PQntuples(want); r++) {
            const char *name = res_text(want, r, 0);
            if (!bsearch(&name, names, n, sizeof *names, compare_names))
                strbuf_addf(&text, "%s%s", text.len ? ", " : "", name);
        }
        *missing = strbuf_take(&text);
    }
    free(names);
    PQclear(want);
    PQclear(have);
    return ok;
}

/*
 * pg_shdepend knows every role that an object or a grant of this database names, but not the
 * bootstrap superuser, which is pinned: of that one's the owned objects are looked for.
 */
bool server_missing_roles(struct pg *blue, struct pg *green, char **missing, struct error *err)
{
    const char *sql = "WITH db AS (SELECT oid, datdba FROM pg_catalog.pg_database WHERE datname = "
                      "pg_catalog.current_database()) "
                      "SELECT rolname FROM pg_catalog.pg_roles r, db WHERE NOT "
                      "pg_catalog.starts_with(rolname, 'pg_') AND (EXISTS "
                      "(SELECT FROM pg_catalog.pg_shdepend s WHERE s.refclassid = "
                      "'pg_catalog.pg_authid'::pg_catalog.regclass AND "
                      "s.refobjid = r.oid AND (s.dbid = db.oid OR (s.classid = "
                      "'pg_catalog.pg_database'::pg_catalog.regclass AND "
                      "s.objid = db.oid))) OR r.oid = db.datdba OR EXISTS (SELECT FROM "
                      "pg_catalog.pg_db_role_setting g WHERE "
                      "g.setdatabase = db.oid AND g.setrole = r.oid) OR (r.oid = 10 AND (EXISTS "
                      "(SELECT FROM pg_catalog.pg_class c "
                      "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relowner = "
                      "10 AND " USER_NAMESPACE ") OR "
                      "EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON "
                      "n.oid = p.pronamespace WHERE "
                      "p.proowner = 10 AND " USER_NAMESPACE ")))) ORDER BY 1";

    return difference(blue, sql, green, "SELECT rolname FROM pg_catalog.pg_roles", missing, err) ||
           error_push(err, "comparing roles");
}

bool server_missing_extensions(struct pg *blue, struct pg *green, char **missing, struct error *err)
{
    return difference(blue, "SELECT extname FROM pg_catalog.pg_extension ORDER BY 1", green,
                      "SELECT name FROM pg_catalog.pg_available_extensions", missing, err) ||
           error_push(err, "comparing extensions");
}

static bool names(struct pg *pg, const char *sql, char **out, struct error *err)
{
    PGresult *res = NULL;
    struct strbuf text = {0};

    *out = NULL;
    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res) && r < 20; r++)
        strbuf_addf(&text, "%s%s", r ? ", " : "", res_text(res, r, 0));
    if (PQntuples(res) > 20)
        strbuf_addf(&text, " and %d more", PQntuples(res) - 20);
    PQclear(res);
    *out = strbuf_take(&text);
    return true;
}

bool server_tables_unlogged(struct pg *pg, char **out, struct error *err)
{
    return names(
        pg,
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) FROM "
        "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE "
        "c.relpersistence = 'u' AND c.relkind = 'r' AND " USER_NAMESPACE " ORDER BY 1",
        out, err);
}

bool server_constraints_not_valid(struct pg *pg, char **out, struct error *err)
{
    return names(
        pg,
        "SELECT pg_catalog.quote_ident(k.conname) || ' on ' || "
        "coalesce(pg_catalog.quote_ident(n.nspname) || '.' "
        "|| pg_catalog.quote_ident(c.relname), 'domain ' || pg_catalog.format_type(k.contypid, "
        "NULL)) FROM "
        "pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace "
        "LEFT JOIN pg_catalog.pg_class c ON c.oid = k.conrelid WHERE NOT k.convalidated "
        "AND " USER_NAMESPACE " ORDER BY 1",
        out, err);
}
