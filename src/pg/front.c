#include "pg/front.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

/* libpq keeps its own deadline while it connects; the query gets ours. */
static PGconn *connect_front(const char *conninfo, int timeout_s)
{
    char *timeout = xstrfmt("%d", timeout_s);
    const char *keys[] = {"dbname", "connect_timeout", "application_name", NULL};
    const char *values[] = {conninfo, timeout, "pgcutover", NULL};
    PGconn *conn = PQconnectdbParams(keys, values, 1);

    free(timeout);
    return conn;
}

static bool wait_result(PGconn *conn, int64_t deadline_us)
{
    while (PQisBusy(conn)) {
        if (clock_passed(deadline_us) || !PQconsumeInput(conn))
            return false;
        clock_sleep_ms(2);
    }
    return true;
}

bool front_system_id(const char *conninfo, int timeout_s, uint64_t *system_id, struct error *err)
{
    PGconn *conn = connect_front(conninfo, timeout_s);
    int64_t deadline = clock_in_ms((int64_t) timeout_s * 1000);
    PGresult *res = NULL;
    bool ok = PQstatus(conn) == CONNECTION_OK;

    if (!ok)
        error_set(err, ERR_CONNECT, "the front door does not let us in: %s", PQerrorMessage(conn));
    if (ok && (!PQsendQuery(conn, "SELECT system_identifier FROM pg_control_system()") ||
               !wait_result(conn, deadline)))
        ok = error_set(err, ERR_TIMEOUT, "the front door did not answer within %d s", timeout_s);
    if (ok) {
        res = PQgetResult(conn);
        ok = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1;
        if (ok)
            *system_id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
        else
            error_set(err, ERR_SQL, "the front door answered: %s", PQerrorMessage(conn));
    }
    PQclear(res);
    PQfinish(conn);
    return ok;
}
