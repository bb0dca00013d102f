/*
 * database.c - making and dropping green.
 *
 * A database of ours carries the comment "pgcutover run <run>". CREATE DATABASE and COMMENT can't
 * be one transaction, so it is made under a name that only we use, and gets its own name when it is
 * marked and set up: after a crash in between the next try drops what is left under that name.
 */
#include "pg/server.h"

#include "private.h"

#include "base/alloc.h"
#include "base/event.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool open_maintenance(struct pg **out, const char *conninfo, const char *run,
                             struct error *err)
{
    if (pg_open(out, conninfo, "postgres", PG_PLAIN, run, "database", NULL, err))
        return true;
    if (strcmp(err->sqlstate, "3D000") != 0)
        return false;
    error_clear(err);
    return pg_open(out, conninfo, "template1", PG_PLAIN, run, "database", NULL, err);
}

static bool look(struct pg *pg, const char *dbname, const char *run, bool *exists, bool *ours,
                 struct error *err)
{
    PGresult *res = NULL;
    char *mark = xstrfmt("pgcutover run %s", run);
    bool ok = pg_query(pg, &res, PG_ANY,
                       "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM "
                       "pg_catalog.pg_database WHERE datname = $1",
                       1, &dbname, err);

    *exists = ok && PQntuples(res) == 1;
    *ours = *exists && strcmp(res_text(res, 0, 0), mark) == 0;
    PQclear(res);
    free(mark);
    return ok;
}

bool server_database_exists(const char *conninfo, const char *dbname, bool *exists, bool *ours,
                            const char *run, struct error *err)
{
    struct pg *pg = NULL;
    bool ok;

    if (!open_maintenance(&pg, conninfo, run, err))
        return false;
    ok = look(pg, dbname, run, exists, ours, err);
    pg_close(pg);
    return ok;
}

/* Sessions may come anew between the ending and the dropping: again, for a while. */
static bool drop(struct pg *pg, const char *dbname, struct error *err)
{
    int64_t deadline = clock_in_ms(10000);
    struct strbuf sql = {0};
    bool ok;

    strbuf_addstr(&sql, "DROP DATABASE IF EXISTS ");
    pg_add_ident(&sql, dbname);
    for (;;) {
        ok = pg_query(pg, NULL, PG_ANY,
                      "SELECT pg_catalog.pg_terminate_backend(pid) FROM "
                      "pg_catalog.pg_stat_activity WHERE datname = $1 "
                      "AND pid <> pg_catalog.pg_backend_pid()",
                      1, &dbname, err) &&
             pg_exec(pg, strbuf_cstr(&sql), err);
        if (ok || strcmp(err->sqlstate, "55006") != 0 || clock_passed(deadline))
            break;
        error_clear(err);
        clock_sleep_ms(50);
    }
    strbuf_release(&sql);
    return ok || error_push(err, "dropping database \"%s\"", dbname);
}

bool server_drop_database(const char *conninfo, const char *dbname, const char *run,
                          struct error *err)
{
    struct pg *pg = NULL;
    bool exists = false, ours = false, ok;

    if (!open_maintenance(&pg, conninfo, run, err))
        return false;
    ok = look(pg, dbname, run, &exists, &ours, err);
    if (ok && exists && !ours) {
        error_set(err, ERR_SQL, "database \"%s\" was not made by run \"%s\" and is not dropped",
                  dbname, run);
        error_hint(
            err, "Ours carry the comment \"pgcutover run %s\". Drop it by hand if it may go.", run);
        ok = false;
    } else if (ok && exists) {
        ok = drop(pg, dbname, err);
    }
    pg_close(pg);
    return ok;
}

static bool role_exists(struct pg *pg, const char *role, bool *yes, struct error *err)
{
    char *value = NULL;

    if (!pg_value(pg, &value, "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = $1", 1,
                  &role, err))
        return false;
    *yes = strcmp(value, "1") == 0;
    free(value);
    return true;
}

static bool add_locale(struct strbuf *sql, const struct pg *target, const PGresult *res,
                       struct error *err)
{
    char provider = res_char(res, 0, 4);

    strbuf_addstr(sql, " ENCODING ");
    pg_add_literal(sql, res_text(res, 0, 0));
    strbuf_addstr(sql, " LC_COLLATE ");
    pg_add_literal(sql, res_text(res, 0, 1));
    strbuf_addstr(sql, " LC_CTYPE ");
    pg_add_literal(sql, res_text(res, 0, 2));
    if (provider == 'c') {
        if (pg_version(target) >= 150000)
            strbuf_addstr(sql, " LOCALE_PROVIDER libc");
        return true;
    }
    if (pg_version(target) < (provider == 'b' ? 170000 : 150000)) {
        error_set(err, ERR_SQL, "blue's locale provider is not known to PostgreSQL %d",
                  pg_version(target) / 10000);
        return error_hint(
            err,
            "Make green's database yourself with a locale that it knows, and set create = no.");
    }
    strbuf_addf(sql, " LOCALE_PROVIDER %s %s ", provider == 'b' ? "builtin" : "icu",
                provider == 'b' ? "BUILTIN_LOCALE" : "ICU_LOCALE");
    pg_add_literal(sql, res_text(res, 0, 5));
    return true;
}

static bool create(struct pg *pg, struct pg *blue, const char *dbname, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool has_owner = false, ok;
    int version = pg_version(blue);
    char *query =
        xstrfmt("SELECT pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, "
                "r.rolname, %s, %s "
                "FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba "
                "WHERE d.datname = pg_catalog.current_database()",
                version >= 150000 ? "d.datlocprovider" : "'c'",
                version >= 170000   ? "coalesce(d.datlocale, '')"
                : version >= 150000 ? "coalesce(d.daticulocale, '')"
                                    : "''");

    ok = pg_query(blue, &res, 1, query, 0, NULL, err);
    free(query);
    strbuf_addstr(&sql, "CREATE DATABASE ");
    pg_add_ident(&sql, dbname);
    strbuf_addstr(&sql, " TEMPLATE template0");
    ok = ok && add_locale(&sql, pg, res, err) &&
         role_exists(pg, res_text(res, 0, 3), &has_owner, err);
    if (ok && has_owner) {
        strbuf_addstr(&sql, " OWNER ");
        pg_add_ident(&sql, res_text(res, 0, 3));
    }
    ok = ok && pg_exec(pg, strbuf_cstr(&sql), err);
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

/*
 * Lists such as search_path are stored quoted in a way of their own. The server gets that right by
 * itself: the value is set in a transaction and taken FROM CURRENT. What can't be set in a session
 * is written as a literal.
 */
static bool copy_setting(struct pg *pg, const char *target, const char *name, const char *quoted,
                         const char *value, struct error *err)
{
    const char *params[] = {name, value};
    struct strbuf sql = {0};
    bool ok;

    strbuf_addf(&sql, "ALTER %s SET %s FROM CURRENT", target, quoted);
    ok = pg_begin(pg, "", err) &&
         pg_query(pg, NULL, PG_ANY, "SELECT pg_catalog.set_config($1, $2, true)", 2, params, err) &&
         pg_exec(pg, strbuf_cstr(&sql), err) && pg_commit(pg, err);
    if (!ok && !pg_is_bad(pg)) {
        pg_rollback(pg);
        error_clear(err);
        strbuf_reset(&sql);
        strbuf_addf(&sql, "ALTER %s SET %s TO ", target, quoted);
        pg_add_literal(&sql, value);
        ok = pg_exec(pg, strbuf_cstr(&sql), err);
    }
    strbuf_release(&sql);
    return ok;
}

static bool copy_settings(struct pg *pg, struct pg *blue, const char *dbname, struct error *err)
{
    PGresult *res = NULL;
    bool ok = pg_query(
        blue, &res, PG_ANY,
        "SELECT coalesce(r.rolname, ''), pg_catalog.split_part(c, '=', 1), "
        "pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) FROM pg_catalog.pg_db_role_setting s "
        "LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole CROSS JOIN "
        "pg_catalog.unnest(s.setconfig) c "
        "WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = "
        "pg_catalog.current_database()) ORDER BY 1",
        0, NULL, err);

    for (int r = 0; ok && r < PQntuples(res); r++) {
        const char *role = res_text(res, r, 0), *name = res_text(res, r, 1);
        struct strbuf target = {0}, quoted = {0};
        bool there = true;
        /* app.setting is two identifiers */
        for (const char *p = name, *dot; p; p = dot ? dot + 1 : NULL) {
            char *word;
            dot = strchr(p, '.');
            word = dot ? xstrndup(p, (size_t) (dot - p)) : xstrdup(p);
            if (quoted.len)
                strbuf_addch(&quoted, '.');
            pg_add_ident(&quoted, word);
            free(word);
        }
        if (role[0]) {
            ok = role_exists(pg, role, &there, err);
            strbuf_addstr(&target, "ROLE ");
            pg_add_ident(&target, role);
            strbuf_addstr(&target, " IN ");
        }
        strbuf_addstr(&target, "DATABASE ");
        pg_add_ident(&target, dbname);
        if (ok && there &&
            !copy_setting(pg, strbuf_cstr(&target), name, strbuf_cstr(&quoted), res_text(res, r, 2),
                          err)) {
            ok = !pg_is_bad(pg);
            if (ok) { /* gone in a newer version, or not ours to set: not worth the run */
                event_warn("setting %s of blue's database was not taken over: %s", name,
                           err->message);
                error_clear(err);
            }
        }
        strbuf_release(&target);
        strbuf_release(&quoted);
    }
    PQclear(res);
    return ok;
}

static bool make(struct pg *pg, struct pg *blue, const char *building, const char *dbname,
                 const char *run, struct error *err)
{
    struct strbuf sql = {0};
    char *mark = xstrfmt("pgcutover run %s", run);
    bool ok = drop(pg, building, err) && create(pg, blue, building, err);

    strbuf_addstr(&sql, "COMMENT ON DATABASE ");
    pg_add_ident(&sql, building);
    strbuf_addstr(&sql, " IS ");
    pg_add_literal(&sql, mark);
    ok = ok && pg_exec(pg, strbuf_cstr(&sql), err) && copy_settings(pg, blue, building, err);
    strbuf_reset(&sql);
    strbuf_addstr(&sql, "ALTER DATABASE ");
    pg_add_ident(&sql, building);
    strbuf_addstr(&sql, " RENAME TO ");
    pg_add_ident(&sql, dbname);
    ok = ok && pg_exec(pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    free(mark);
    return ok;
}

bool server_create_database(const char *conninfo, const char *dbname, struct pg *blue,
                            const char *run, struct error *err)
{
    struct pg *pg = NULL;
    char building[64];
    bool exists = false, ours = false, ok;

    snprintf(building, sizeof building, "pgcutover_new_%s", run);
    if (!open_maintenance(&pg, conninfo, run, err))
        return false;
    ok = look(pg, dbname, run, &exists, &ours, err);
    if (ok && exists && !ours) {
        error_set(err, ERR_SQL, "database \"%s\" exists already and was not made by run \"%s\"",
                  dbname, run);
        error_hint(err, "Choose another name for green, drop it by hand, or set create = no to use "
                        "it as it is.");
        ok = false;
    } else if (ok && !exists) {
        ok = make(pg, blue, building, dbname, run, err);
    }
    pg_close(pg);
    return ok || error_push(err, "creating database \"%s\"", dbname);
}

/* A hundred at a time: one DROP SCHEMA of thousands of tables would run out of the shared lock
 * table. */
static bool drop_relations(struct pg *pg, struct error *err)
{
    for (;;) {
        PGresult *res = NULL;
        struct strbuf sql = {0};
        bool ok = pg_query(
            pg, &res, PG_ANY,
            "SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' "
            "THEN "
            "'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END || ' IF EXISTS ' || "
            "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) FROM "
            "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE "
            "c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND " USER_NAMESPACE
            " ORDER BY c.relkind = 'S', c.oid LIMIT 100",
            0, NULL, err);
        int n = ok ? PQntuples(res) : 0;

        for (int r = 0; r < n; r++)
            strbuf_addf(&sql, "DROP %s CASCADE;", res_text(res, r, 0));
        ok = ok && (n == 0 || pg_exec(pg, strbuf_cstr(&sql), err));
        PQclear(res);
        strbuf_release(&sql);
        if (!ok || n == 0)
            return ok;
    }
}

/* Each row is a statement. */
static bool run_generated(struct pg *pg, const char *sql, struct error *err)
{
    PGresult *res = NULL;
    bool ok = pg_query(pg, &res, PG_ANY, sql, 0, NULL, err);

    for (int r = 0; ok && r < PQntuples(res); r++)
        ok = pg_exec(pg, res_text(res, r, 0), err);
    PQclear(res);
    return ok;
}

/* public is made anew with the owner and the grants that it had. */
static const char schemas_sql[] =
    "SELECT 'DROP SCHEMA ' || pg_catalog.quote_ident(n.nspname) || ' CASCADE' || CASE WHEN "
    "n.nspname = 'public' THEN "
    "'; CREATE SCHEMA public; ALTER SCHEMA public OWNER TO ' || "
    "pg_catalog.quote_ident(pg_catalog.pg_get_userbyid("
    "n.nspowner)) || coalesce((SELECT pg_catalog.string_agg('; GRANT ' || a.privilege_type || ' ON "
    "SCHEMA public TO ' || "
    "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE "
    "pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END || CASE "
    "WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, '') FROM "
    "pg_catalog.aclexplode(n.nspacl) a WHERE a.grantee "
    "<> n.nspowner), '') ELSE '' END FROM pg_catalog.pg_namespace n WHERE " USER_NAMESPACE;

bool server_empty_database(struct pg *pg, const char *run, struct error *err)
{
    char *known = NULL;
    bool ok = pg_value(
        pg, &known,
        "SELECT CASE WHEN pg_catalog.to_regclass('pgcutover.marker') IS NULL THEN 0 ELSE 1 END", 0,
        NULL, err);

    if (ok && known[0] == '1') {
        free(known);
        ok = pg_value(pg, &known, "SELECT count(*) FROM pgcutover.marker WHERE run = $1", 1, &run,
                      err);
    }
    if (ok && known[0] == '0') {
        error_set(err, ERR_SQL, "%s doesn't belong to run \"%s\" and is not emptied", pg->where,
                  run);
        error_hint(
            err,
            "It has no marker of that run in schema pgcutover. Empty it by hand if it may go.");
        ok = false;
    }
    free(known);
    return (ok &&
            run_generated(pg,
                          "SELECT 'DROP EVENT TRIGGER ' || pg_catalog.quote_ident(evtname) FROM "
                          "pg_catalog.pg_event_trigger "
                          "WHERE NOT pg_catalog.starts_with(evtname, 'pgcutover_guard_')",
                          err) &&
            run_generated(pg,
                          "SELECT 'DROP PUBLICATION ' || pg_catalog.quote_ident(pubname) FROM "
                          "pg_catalog.pg_publication",
                          err) &&
            run_generated(pg,
                          "SELECT 'DROP EXTENSION IF EXISTS ' || pg_catalog.quote_ident(extname) "
                          "|| ' CASCADE' FROM "
                          "pg_catalog.pg_extension WHERE extname <> 'plpgsql'",
                          err) &&
            drop_relations(pg, err) && run_generated(pg, schemas_sql, err) &&
            run_generated(pg,
                          "SELECT 'DROP FOREIGN DATA WRAPPER ' || pg_catalog.quote_ident(fdwname) "
                          "|| ' CASCADE' FROM "
                          "pg_catalog.pg_foreign_data_wrapper",
                          err) &&
            run_generated(pg,
                          "SELECT 'DO $$BEGIN PERFORM pg_catalog.lo_unlink(oid) FROM "
                          "pg_catalog.pg_largeobject_metadata "
                          "WHERE oid >= ' || min(oid) || ' AND oid <= ' || max(oid) || '; END$$' "
                          "FROM (SELECT oid, "
                          "pg_catalog.row_number() OVER (ORDER BY oid) / 1000 AS k FROM "
                          "pg_catalog.pg_largeobject_metadata) q GROUP BY k",
                          err)) ||
           error_push(err, "emptying %s", pg->where);
}
