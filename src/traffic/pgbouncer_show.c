/* pgbouncer_show.c - what PgBouncer says of itself. Columns are found by their names: their places
 * differ between versions. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NAMED 10

/* "" where the column is missing or NULL. */
static const char *field(const PGresult *res, int row, const char *column)
{
    int col = PQfnumber(res, column);
    return col < 0 ? "" : PQgetvalue(res, row, col);
}

static int64_t number(const PGresult *res, int row, const char *column)
{
    return strtoll(field(res, row, column), NULL, 10);
}

static bool need_columns(const PGresult *res, const char *command, const char *const *columns,
                         struct error *err)
{
    for (; *columns; columns++) {
        if (PQfnumber(res, *columns) >= 0)
            continue;
        error_set(err, ERR_TRAFFIC, "the answer to %s has no column \"%s\"", command, *columns);
        return error_hint(err,
                          "This version of PgBouncer (or of what answers like it) is not known.");
    }
    return true;
}

/* One SHOW with the columns that it must have. */
static bool show(struct console *c, const struct patience *how, const char *command,
                 const char *const *columns, PGresult **res, struct error *err)
{
    if (!console_command(c, how, command, res, err))
        return false;
    if (need_columns(*res, command, columns, err))
        return true;
    PQclear(*res);
    return false;
}

void alias_state_release(struct alias_state *s)
{
    target_release(&s->target);
}

static void take_alias(struct alias_state *out, const PGresult *res, int row)
{
    const char *mode = field(res, row, "pool_mode");

    out->target = (struct target){.host = xstrdup(field(res, row, "host")),
                                  .port = xstrdup(field(res, row, "port")),
                                  .dbname = xstrdup(field(res, row, "database")),
                                  .pool_mode = mode[0] ? xstrdup(mode) : NULL};
    out->connections = number(res, row, "current_connections");
    out->min_pool_size = number(res, row, "min_pool_size");
    out->paused = number(res, row, "paused") != 0;
    out->disabled = number(res, row, "disabled") != 0;
}

bool bouncer_show_alias(struct console *c, const struct patience *how, const char *alias,
                        struct alias_state *out, struct error *err)
{
    static const char *const columns[] = {
        "name", "host", "port", "database", "current_connections", "paused", NULL};
    PGresult *res = NULL;
    int row = 0;

    *out = (struct alias_state){0};
    if (!show(c, how, "SHOW DATABASES", columns, &res, err))
        return false;
    while (row < PQntuples(res) && strcmp(field(res, row, "name"), alias) != 0)
        row++;
    bool found = row < PQntuples(res);
    if (found)
        take_alias(out, res, row);
    PQclear(res);
    if (found)
        return true;
    error_set(err, ERR_TRAFFIC, "PgBouncer at %s has no alias \"%s\"", console_where(c), alias);
    return error_hint(err, "Compare database and new_database in the playbook with SHOW DATABASES; "
                           "an alias that only \"*\" stands for can't be switched.");
}

bool bouncer_show_config(struct console *c, const struct patience *how, const char *key,
                         char **value, struct error *err)
{
    static const char *const columns[] = {"key", "value", NULL};
    PGresult *res = NULL;

    *value = NULL;
    if (!show(c, how, "SHOW CONFIG", columns, &res, err))
        return false;
    for (int row = 0; row < PQntuples(res) && !*value; row++)
        if (strcmp(field(res, row, "key"), key) == 0)
            *value = xstrdup(field(res, row, "value"));
    PQclear(res);
    return *value || error_set(err, ERR_TRAFFIC, "PgBouncer at %s has no setting \"%s\"",
                               console_where(c), key);
}

bool bouncer_show_pools(struct console *c, const struct patience *how, const char *alias,
                        struct pool_sums *out, struct error *err)
{
    static const char *const columns[] = {"database", "cl_waiting", "sv_active", "sv_idle",
                                          "sv_used",  "sv_tested",  "sv_login",  NULL};
    PGresult *res = NULL;

    *out = (struct pool_sums){0};
    if (!show(c, how, "SHOW POOLS", columns, &res, err))
        return false;
    for (int row = 0; row < PQntuples(res); row++) {
        if (strcmp(field(res, row, "database"), alias) != 0)
            continue;
        int64_t servers = number(res, row, "sv_active") + number(res, row, "sv_idle") +
                          number(res, row, "sv_used") + number(res, row, "sv_tested") +
                          number(res, row, "sv_active_cancel") +
                          number(res, row, "sv_being_canceled");
        int64_t waiting = number(res, row, "cl_waiting");
        out->pools++;
        out->servers += servers;
        out->logins += number(res, row, "sv_login");
        out->waiting += waiting;
        out->stuck = out->stuck || (waiting > 0 && servers == 0);
        out->session = out->session || strcmp(field(res, row, "pool_mode"), "session") == 0;
    }
    PQclear(res);
    return true;
}

/* The client's row in SHOW CLIENTS that a server connection is linked to, or -1. */
static int linked_client(const PGresult *clients, const char *link)
{
    for (int row = 0; clients && link[0] && row < PQntuples(clients); row++)
        if (strcmp(field(clients, row, "ptr"), link) == 0)
            return row;
    return -1;
}

static void name_client(struct strbuf *out, const PGresult *servers, int row,
                        const PGresult *clients)
{
    int client = linked_client(clients, field(servers, row, "link"));
    const PGresult *from = client >= 0 ? clients : servers;
    int at = client >= 0 ? client : row;
    const char *application = field(from, at, "application_name");

    if (client < 0)
        strbuf_addf(out, "no client, server connection in state %s", field(servers, row, "state"));
    else
        strbuf_addf(out, "%s at %s:%s", field(clients, client, "user"),
                    field(clients, client, "addr"), field(clients, client, "port"));
    if (application[0])
        strbuf_addf(out, ", application %s", application);
    strbuf_addf(out, ", server pid %s\n", field(servers, row, "remote_pid"));
}

size_t bouncer_name_clients(struct console *c, const struct patience *how, const char *alias,
                            struct strbuf *out)
{
    struct error ignored = {0};
    PGresult *servers = NULL;
    PGresult *clients = NULL;
    size_t n = 0;

    if (!console_command(c, how, "SHOW SERVERS", &servers, &ignored))
        return 0;
    if (!console_command(c, how, "SHOW CLIENTS", &clients, &ignored))
        clients = NULL;
    for (int row = 0; row < PQntuples(servers); row++) {
        if (strcmp(field(servers, row, "database"), alias) != 0)
            continue;
        if (n++ < MAX_NAMED)
            name_client(out, servers, row, clients);
    }
    if (n > MAX_NAMED)
        strbuf_addf(out, "and %zu more\n", n - MAX_NAMED);
    PQclear(servers);
    PQclear(clients);
    return n;
}
