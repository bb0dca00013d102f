#include "pg/position.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static bool position(struct pg *pg, const char *sql, lsn_t *out, struct error *err)
{
    char *text = NULL;
    bool ok = pg_value(pg, &text, sql, 0, NULL, err);

    if (ok && !lsn_parse(text, out))
        ok = error_set(err, ERR_PROTOCOL, "the server's WAL position \"%s\" is no LSN", text);
    free(text);
    return ok;
}

bool pg_current_lsn(struct pg *pg, lsn_t *out, struct error *err)
{
    return position(pg, "SELECT pg_catalog.pg_current_wal_insert_lsn()", out, err);
}

bool pg_flushed_lsn(struct pg *pg, lsn_t *out, struct error *err)
{
    return position(pg, "SELECT pg_catalog.pg_current_wal_flush_lsn()", out, err);
}

bool pg_export_snapshot(struct pg *pg, char out[64], struct error *err)
{
    char *text = NULL;
    bool ok = pg_value(pg, &text, "SELECT pg_catalog.pg_export_snapshot()", 0, NULL, err);

    if (ok)
        snprintf(out, 64, "%s", text);
    free(text);
    return ok;
}

bool pg_end_worker(struct pg *pg, const char *run, const char *worker, int64_t deadline_us,
                   struct error *err)
{
    char *name = xstrfmt("pgcutover/%s/%s", run, worker);
    const char *params[] = {name};
    bool ok = true, gone = false;

    while (ok && !gone) {
        char *left = NULL;

        ok = pg_value(
            pg, &left,
            "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity "
            "WHERE application_name = $1 AND pid <> pg_catalog.pg_backend_pid() "
            "AND datname = pg_catalog.current_database()",
            1, params, err);
        gone = ok && strcmp(left, "0") == 0;
        free(left);
        if (ok && !gone) {
            if (clock_passed(deadline_us))
                ok = error_set(err, ERR_TIMEOUT, "session %s does not end", name);
            clock_sleep_ms(5);
        }
    }
    free(name);
    return ok;
}

bool slot_count_changes(struct pg *pg, const char *slot, const char *publication, lsn_t from,
                        lsn_t upto, struct slot_change **out, size_t *n, struct error *err)
{
    /* A pgoutput message of protocol 1 begins with its type and, for row changes, the relation's
     * OID. A TRUNCATE (type, count, options, OIDs) is counted at its first relation. A transaction
     * belongs where its commit is. */
    static const char sql[] =
        "WITH m AS (SELECT lsn, xid, pg_catalog.chr(pg_catalog.get_byte(data, 0)) AS op, data FROM "
        "pg_catalog.pg_logical_slot_peek_binary_changes($1, $4::pg_lsn, NULL, 'proto_version', "
        "'1', 'publication_names', $2)), "
        "done AS (SELECT xid FROM m WHERE op = 'C' AND lsn > $3::pg_lsn AND ($4 IS NULL OR lsn <= "
        "$4::pg_lsn)), "
        "c AS (SELECT op, CASE WHEN op = 'T' THEN 6 ELSE 1 END AS at, data FROM m JOIN done USING "
        "(xid) WHERE op IN ('I','U','D','T')), "
        "r AS (SELECT op, (pg_catalog.get_byte(data, at)::bigint << 24) + "
        "(pg_catalog.get_byte(data, at + 1) << 16) "
        "+ (pg_catalog.get_byte(data, at + 2) << 8) + pg_catalog.get_byte(data, at + 3) AS rel "
        "FROM c) "
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(k.relname), "
        "count(*) FILTER (WHERE op = 'I'), count(*) FILTER (WHERE op = 'U'), count(*) FILTER "
        "(WHERE op = 'D'), "
        "count(*) FILTER (WHERE op = 'T') FROM r JOIN pg_catalog.pg_class k ON k.oid = r.rel::oid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace WHERE n.nspname <> 'pgcutover' "
        "GROUP BY 1 ORDER BY 1";
    char from_text[LSN_SIZE], upto_text[LSN_SIZE];
    struct strbuf name = {0};
    PGresult *res = NULL;

    pg_add_ident(&name, publication);
    const char *params[] = {slot, name.data, lsn_str(from_text, from),
                            upto ? lsn_str(upto_text, upto) : NULL};
    bool ok = pg_query(pg, &res, PG_ANY, sql, 4, params, err);
    strbuf_release(&name);
    if (!ok)
        return false;
    *n = (size_t) PQntuples(res);
    *out = xcalloc(*n + 1, sizeof **out);
    for (int i = 0; i < PQntuples(res); i++)
        (*out)[i] = (struct slot_change){.table = xstrdup(PQgetvalue(res, i, 0)),
                                         .inserts = strtoll(PQgetvalue(res, i, 1), NULL, 10),
                                         .updates = strtoll(PQgetvalue(res, i, 2), NULL, 10),
                                         .deletes = strtoll(PQgetvalue(res, i, 3), NULL, 10),
                                         .truncates = strtoll(PQgetvalue(res, i, 4), NULL, 10)};
    PQclear(res);
    return true;
}

void slot_changes_release(struct slot_change *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(list[i].table);
    free(list);
}

bool slot_advance(struct pg *pg, const char *slot, lsn_t lsn, struct error *err)
{
    char text[LSN_SIZE];
    const char *params[] = {slot, lsn_str(text, lsn)};
    PGresult *res = NULL;
    bool ok = pg_query(pg, &res, 1, "SELECT pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)",
                       2, params, err);

    PQclear(res);
    return ok;
}
