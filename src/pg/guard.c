/*
 * guard.c - event triggers that refuse DDL while a run is on.
 *
 * ddl_command_end and sql_drop, not ddl_command_start: only at the end does the server say in which
 * schema an object is, and temporary ones must pass. Raising there rolls the command back as well.
 */
#include "pg/fence.h"

#include "private.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Run's names may be longer than the 63 bytes of an identifier: the rest goes into a number. */
static void guard_name(const char *run, char out[64])
{
    unsigned long h = 5381;

    for (const char *p = run; *p; p++)
        h = (h * 33 + (unsigned char) *p) & 0xffffffff;
    if (strlen(run) <= 40)
        snprintf(out, 64, "pgcutover_guard_%s", run);
    else
        snprintf(out, 64, "pgcutover_guard_%.30s_%08lx", run, h);
}

static const char body_head[] = "DECLARE r record; what text; BEGIN "
                                "IF starts_with(current_setting('application_name'), ";
/* Triggers, rules and policies have no schema of their own: their table's counts. */
static const char body_middle[] =
    ") OR tg_tag IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') THEN RETURN; END IF; "
    "IF tg_event = 'ddl_command_end' THEN "
    "SELECT d.object_type || ' ' || coalesce(d.object_identity, '') INTO what FROM "
    "pg_event_trigger_ddl_commands() d "
    "WHERE NOT coalesce(d.schema_name ~ '^pg_(toast_)?temp', false) AND NOT "
    "coalesce(d.object_identity ~ "
    "' (on|for) pg_temp(_[0-9]+)?\\.', false) AND NOT d.in_extension LIMIT 1; "
    "ELSE "
    "SELECT d.object_type || ' ' || coalesce(d.object_identity, '') INTO what FROM "
    "pg_event_trigger_dropped_objects() d "
    "WHERE d.original AND NOT d.is_temporary AND NOT coalesce(d.schema_name ~ '^pg_(toast_)?temp', "
    "false) AND NOT "
    "coalesce(d.object_identity ~ ' (on|for) pg_temp(_[0-9]+)?\\.', false) LIMIT 1; "
    "END IF; "
    "IF what IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = tg_tag || ' is "
    "refused: ' || ";
static const char body_tail[] = "; END IF; END";

static void add_body(struct strbuf *sql, const char *run)
{
    struct strbuf body = {0}, text = {0};
    char prefix[64];

    pg_own_prefix(NULL, run, prefix);
    strbuf_addstr(&body, body_head);
    pg_add_literal(&body, prefix);
    strbuf_addstr(&body, body_middle);
    strbuf_addf(&text, "pgcutover run \"%s\" is moving this database", run);
    pg_add_literal(&body, strbuf_cstr(&text));
    strbuf_addstr(&body, ", DETAIL = what, HINT = ");
    strbuf_reset(&text);
    strbuf_addf(&text, "Wait until the run has ended, or stop it with: pgcutover abort %s", run);
    pg_add_literal(&body, strbuf_cstr(&text));
    strbuf_addstr(&body, body_tail);
    pg_add_literal(sql, strbuf_cstr(&body));
    strbuf_release(&body);
    strbuf_release(&text);
}

static void add_drop(struct strbuf *sql, const char *name)
{
    strbuf_addstr(sql, "DROP EVENT TRIGGER IF EXISTS ");
    pg_add_ident(sql, name);
    strbuf_addf(
        sql, "; DROP EVENT TRIGGER IF EXISTS \"%s_d\"; DROP FUNCTION IF EXISTS pgcutover.\"%s\"();",
        name, name);
}

bool guard_install(struct pg *pg, const char *run, bool *made, struct error *err)
{
    struct strbuf sql = {0};
    char name[64];
    bool ok;

    guard_name(run, name);
    strbuf_addstr(&sql, "CREATE SCHEMA IF NOT EXISTS pgcutover;");
    add_drop(&sql, name);
    strbuf_addstr(&sql, "CREATE FUNCTION pgcutover.");
    pg_add_ident(&sql, name);
    strbuf_addstr(&sql,
                  "() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS ");
    add_body(&sql, run);
    strbuf_addstr(&sql, "; CREATE EVENT TRIGGER ");
    pg_add_ident(&sql, name);
    strbuf_addf(&sql,
                " ON ddl_command_end EXECUTE FUNCTION pgcutover.\"%s\"(); CREATE EVENT TRIGGER "
                "\"%s_d\" ON sql_drop "
                "EXECUTE FUNCTION pgcutover.\"%s\"()",
                name, name, name);
    ok = pg_ddl(pg, strbuf_cstr(&sql), DDL_LOCK_TIMEOUT_MS, clock_in_ms(DDL_DEADLINE_MS), err);
    strbuf_release(&sql);
    *made = ok;
    if (!ok && strcmp(err->sqlstate, "42501") == 0) {
        error_clear(err);
        return true;
    }
    return ok || error_push(err, "making the guard on %s", pg->where);
}

bool guard_exists(struct pg *pg, const char *run, bool *yes, struct error *err)
{
    char name[64];
    const char *params[] = {name};
    char *value = NULL;

    guard_name(run, name);
    if (!pg_value(pg, &value,
                  "SELECT count(*) = 2 FROM pg_catalog.pg_event_trigger WHERE evtname IN "
                  "($1::text, $1::text || '_d') AND "
                  "evtenabled <> 'D'",
                  1, params, err))
        return false;
    *yes = value[0] == 't';
    free(value);
    return true;
}

bool guard_drop(struct pg *pg, const char *run, struct error *err)
{
    struct strbuf sql = {0};
    char name[64];
    char *value = NULL;
    const char *params[] = {name};
    bool ok;

    guard_name(run, name);
    /* who may not make one need not be allowed to drop one that isn't there */
    if (!pg_value(pg, &value,
                  "SELECT count(*) FROM pg_catalog.pg_event_trigger WHERE evtname IN ($1::text, "
                  "$1::text || '_d')",
                  1, params, err))
        return false;
    ok = strcmp(value, "0") == 0;
    free(value);
    if (ok)
        return true;
    add_drop(&sql, name);
    ok = pg_ddl(pg, strbuf_cstr(&sql), DDL_LOCK_TIMEOUT_MS, clock_in_ms(DDL_DEADLINE_MS), err);
    strbuf_release(&sql);
    return ok || error_push(err, "dropping the guard on %s", pg->where);
}
