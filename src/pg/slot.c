/* slot.c - replication slots and the snapshots that they export. */
#include "private.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A cancelled CREATE_REPLICATION_SLOT leaves nothing; one whose server process is stuck may. */
static void drop_half_made(struct pg *walsender, struct pg *control, const char *name)
{
    struct error ignored = {0};

    if (pg_is_bad(walsender) &&
        !pg_execf(control, &ignored, "SELECT pg_catalog.pg_terminate_backend(%d)",
                  pg_pid(walsender)))
        return;
    (void) !slot_drop(control, name, &ignored);
}

static void name_blockers(struct pg *control, const char *name, struct error *err)
{
    struct error ignored = {0};
    struct pg_blocker *list = NULL;
    struct strbuf text = {0};
    size_t n = 0;

    if (!pg_blockers(control, 0, &list, &n, &ignored))
        return;
    error_set(err, ERR_TIMEOUT,
              "slot \"%s\" could not be made in time: %zu open transactions are waited for", name,
              n);
    pg_blockers_describe(&text, list, n);
    error_detail(err, "%s", strbuf_cstr(&text));
    error_hint(err, "A slot waits for every transaction of the whole cluster that was open before "
                    "it. End those "
                    "named, with pg_terminate_backend(pid) or ROLLBACK PREPARED, and resume.");
    strbuf_release(&text);
    free(list);
}

bool slot_create(struct pg *walsender, struct pg *control, const char *name, bool temporary,
                 struct slot_snapshot *out, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    memset(out, 0, sizeof *out);
    strbuf_addstr(&sql, "CREATE_REPLICATION_SLOT ");
    pg_add_ident(&sql, name);
    strbuf_addf(&sql, "%s LOGICAL pgoutput EXPORT_SNAPSHOT", temporary ? " TEMPORARY" : "");
    ok = pg_query(walsender, &res, 1, strbuf_cstr(&sql), 0, NULL, err);
    strbuf_release(&sql);
    if (!ok) {
        bool timeout = err->code == ERR_TIMEOUT;
        if (timeout)
            name_blockers(control, name, err);
        if (timeout || err->code == ERR_STOPPED)
            drop_half_made(walsender, control, name);
        return error_push(err, "creating slot \"%s\"", name);
    }
    if (PQnfields(res) < 3 || !lsn_parse(PQgetvalue(res, 0, 1), &out->consistent_point)) {
        PQclear(res);
        return error_set(err, ERR_PROTOCOL, "CREATE_REPLICATION_SLOT gave no consistent point");
    }
    copy_text(out->snapshot, sizeof out->snapshot, PQgetvalue(res, 0, 2));
    PQclear(res);
    return true;
}

bool slot_create_plain(struct pg *pg, const char *name, struct error *err)
{
    return pg_query(pg, NULL, PG_ANY,
                    "SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", 1,
                    &name, err) ||
           error_push(err, "creating slot \"%s\"", name);
}

bool slot_read(struct pg *pg, const char *name, struct slot_info *out, struct error *err)
{
    PGresult *res = NULL;
    char *sql = xstrfmt("SELECT active, coalesce(active_pid, 0), coalesce(plugin, ''), "
                        "coalesce(database, ''), restart_lsn, "
                        "confirmed_flush_lsn, %s, coalesce(pg_catalog.pg_wal_lsn_diff(CASE WHEN "
                        "pg_catalog.pg_is_in_recovery() THEN "
                        "pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_lsn() "
                        "END, restart_lsn)::int8, 0) "
                        "FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
                        pg_version(pg) >= 130000 ? "coalesce(wal_status, '')" : "''");
    bool ok = pg_query(pg, &res, PG_ANY, sql, 1, &name, err);

    free(sql);
    memset(out, 0, sizeof *out);
    if (ok && PQntuples(res) == 1) {
        out->exists = true;
        out->active = res_bool(res, 0, 0);
        out->active_pid = (int) res_int(res, 0, 1);
        copy_text(out->plugin, sizeof out->plugin, res_text(res, 0, 2));
        copy_text(out->database, sizeof out->database, res_text(res, 0, 3));
        out->restart_lsn = res_lsn(res, 0, 4);
        out->confirmed_flush = res_lsn(res, 0, 5);
        copy_text(out->wal_status, sizeof out->wal_status, res_text(res, 0, 6));
        out->retained_bytes = res_int(res, 0, 7);
    }
    PQclear(res);
    return ok;
}

/* Ends the walsender when it is one of ours; *ours says whether it was. */
static bool end_ours(struct pg *pg, int pid, bool *ours, struct error *err)
{
    char prefix[64];
    char *text = xstrfmt("%d", pid);
    const char *params[] = {text, prefix};
    PGresult *res = NULL;
    bool ok;

    pg_own_prefix(pg, NULL, prefix);
    ok = pg_query(pg, &res, PG_ANY,
                  "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
                  "WHERE pid = $1::int "
                  "AND pg_catalog.starts_with(application_name, $2)",
                  2, params, err);
    *ours = ok && PQntuples(res) > 0;
    PQclear(res);
    free(text);
    return ok;
}

bool slot_drop(struct pg *pg, const char *name, struct error *err)
{
    int64_t deadline = clock_in_ms(10000);

    for (;;) {
        struct slot_info info;
        bool ours = false;
        if (!slot_read(pg, name, &info, err))
            return false;
        if (!info.exists)
            return true;
        if (info.active && !end_ours(pg, info.active_pid, &ours, err))
            return false;
        if (info.active && (!ours || clock_passed(deadline))) {
            /* between our two looks its process may have gone by itself */
            if (!clock_passed(deadline)) {
                struct slot_info again;
                if (!slot_read(pg, name, &again, err))
                    return false;
                if (!again.active || again.active_pid != info.active_pid)
                    continue;
            }
            error_set(err, ERR_SQL, "slot \"%s\" is in use by pid %d, which isn't ours", name,
                      info.active_pid);
            copy_text(err->sqlstate, sizeof err->sqlstate, "55006");
            return error_hint(err, "Stop that reader, then run the command again.");
        }
        if (!info.active &&
            pg_query(pg, NULL, PG_ANY, "SELECT pg_catalog.pg_drop_replication_slot($1)", 1, &name,
                     err))
            return true;
        if (!info.active && strcmp(err->sqlstate, "42704") != 0 &&
            strcmp(err->sqlstate, "55006") != 0)
            return error_push(err, "dropping slot \"%s\"", name);
        clock_sleep_ms(20);
    }
}
