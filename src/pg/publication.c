/* publication.c - what is published: every leaf table with a log, and the marker. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static bool publishable(const struct cat_table *t)
{
    return t->relkind == 'r' && t->persistence == 'p';
}

static int compare_oids(const void *a, const void *b)
{
    const Oid *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* *same: it publishes exactly these tables, in the way we want. */
static bool look(struct pg *pg, const char *name, const Oid *oids, size_t n, bool *exists,
                 bool *same, struct error *err)
{
    PGresult *res = NULL;
    char *sql = xstrfmt("SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT "
                        "puballtables%s, r.prrelid "
                        "FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_rel "
                        "r ON r.prpubid = p.oid "
                        "WHERE p.pubname = $1 ORDER BY r.prrelid",
                        pg_version(pg) >= 130000 ? " AND NOT pubviaroot" : "");
    bool ok = pg_query(pg, &res, PG_ANY, sql, 1, &name, err);

    free(sql);
    *exists = ok && PQntuples(res) > 0;
    *same = *exists && res_bool(res, 0, 0) && (size_t) PQntuples(res) == n;
    for (size_t i = 0; *same && i < n; i++)
        *same = res_oid(res, (int) i, 1) == oids[i];
    PQclear(res);
    return ok;
}

bool publication_create(struct pg *pg, const char *name, const struct catalog *cat,
                        struct error *err)
{
    Oid *oids = xcalloc(cat->ntables + 1, sizeof *oids);
    size_t n = 0;
    struct strbuf sql = {0};
    char *marker = NULL;
    bool exists = false, same = false, ok = false;
    const char *via_root = pg_version(pg) >= 130000 ? ", publish_via_partition_root = false" : "";

    if (!pg_value(pg, &marker, "SELECT 'pgcutover.marker'::pg_catalog.regclass::oid", 0, NULL, err))
        goto out;
    oids[n++] = (Oid) strtoul(marker, NULL, 10);
    for (size_t i = 0; i < cat->ntables; i++)
        if (publishable(&cat->tables[i]))
            oids[n++] = cat->tables[i].oid;
    qsort(oids, n, sizeof *oids, compare_oids);
    if (!look(pg, name, oids, n, &exists, &same, err))
        goto out;
    ok = same;
    if (ok)
        goto out;
    strbuf_addf(&sql, "%s PUBLICATION ", exists ? "ALTER" : "CREATE");
    pg_add_ident(&sql, name);
    strbuf_addf(&sql, " %s TABLE ONLY pgcutover.marker", exists ? "SET" : "FOR");
    for (size_t i = 0; i < cat->ntables; i++)
        if (publishable(&cat->tables[i]))
            strbuf_addf(&sql, ", ONLY %s", cat->tables[i].sql_name);
    if (exists) {
        strbuf_addstr(&sql, "; ALTER PUBLICATION ");
        pg_add_ident(&sql, name);
        strbuf_addstr(&sql, " SET (");
    } else {
        strbuf_addstr(&sql, " WITH (");
    }
    strbuf_addf(&sql, "publish = 'insert, update, delete, truncate'%s)", via_root);
    ok = pg_ddl(pg, strbuf_cstr(&sql), DDL_LOCK_TIMEOUT_MS, clock_in_ms(DDL_DEADLINE_MS), err);
out:
    strbuf_release(&sql);
    free(marker);
    free(oids);
    return ok || error_push(err, "publication \"%s\"", name);
}

bool publication_drop(struct pg *pg, const char *name, struct error *err)
{
    struct strbuf sql = {0};
    bool ok;

    strbuf_addstr(&sql, "DROP PUBLICATION IF EXISTS ");
    pg_add_ident(&sql, name);
    ok = pg_ddl(pg, strbuf_cstr(&sql), DDL_LOCK_TIMEOUT_MS, clock_in_ms(DDL_DEADLINE_MS), err);
    strbuf_release(&sql);
    return ok || error_push(err, "publication \"%s\"", name);
}
