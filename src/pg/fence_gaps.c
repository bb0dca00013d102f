/* fence_gaps.c - does the fence cover every table? A trigger may have been dropped or disabled
 * behind our back. */
#include "pg/fence.h"

#include "private.h"

bool fence_gaps(struct pg *pg, const struct catalog *cat, size_t *gaps, struct error *err)
{
    PGresult *res = NULL;
    size_t next = 0;

    *gaps = 0;
    /* 'O' and 'A' fire for clients; 'D' is disabled, 'R' fires for replicas only */
    if (!pg_query(pg, &res, PG_ANY,
                  "SELECT tgrelid FROM pg_catalog.pg_trigger WHERE tgname = '" FENCE_TRIGGER
                  "' AND tgenabled IN ('O', 'A') ORDER BY tgrelid",
                  0, NULL, err))
        return false;
    for (size_t i = 0; i < cat->ntables; i++) {
        bool found = false;

        for (next = 0; !found && next < (size_t) PQntuples(res); next++)
            found = res_oid(res, (int) next, 0) == cat->tables[i].oid;
        *gaps += !found && cat->tables[i].relkind != 'f';
    }
    PQclear(res);
    return true;
}

bool fence_warm(struct pg *l, struct error *err)
{
    char ignored[40];

    return pg_exec(l, "DO LANGUAGE plpgsql $$BEGIN END$$", err) &&
           catalog_fingerprint(l, ignored, err);
}
