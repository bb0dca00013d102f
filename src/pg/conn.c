/* conn.c - opening, pinning and identifying sessions. Sending and receiving is in query.c. */
#include "private.h"

#include "base/alloc.h"
#include "sys/stop.h"

#include <ctype.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_SECONDS 10
#define STOP_SLICE_MS 100

/* Sent in the startup packet: these beat what ALTER DATABASE and ALTER ROLE have set. All known
 * since 12. */
static const char timeouts_off[] = "-c statement_timeout=0 -c lock_timeout=0"
                                   " -c idle_in_transaction_session_timeout=0"
                                   " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5"
                                   " -c tcp_keepalives_count=3";
static const char pinned[] =
    " -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3"
    " -c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C -c search_path="
    " -c default_transaction_read_only=off -c standard_conforming_strings=on"
    " -c array_nulls=on -c xmloption=content -c quote_all_identifiers=off -c jit=off"
    " -c default_transaction_isolation=read\\ committed"
    " -c default_transaction_deferrable=off -c row_security=off"
    " -c client_min_messages=warning";
static const char apply[] = " -c session_replication_role=replica -c synchronous_commit=on";

static void ignore_notice(void *arg, const PGresult *res)
{
    (void) arg;
    (void) res;
}

struct params {
    const char *keywords[80];
    const char *values[80];
    size_t n;
};

static void params_set(struct params *p, const char *keyword, const char *value)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->keywords[i], keyword) == 0) {
            p->values[i] = value;
            return;
        }
    }
    if (p->n >= 78)
        BUG("more connection options than there is room for");
    p->keywords[p->n] = keyword;
    p->values[p->n++] = value;
}

static void params_default(struct params *p, const char *keyword, const char *value)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->keywords[i], keyword) == 0)
            return;
    params_set(p, keyword, value);
}

/* In verbose form a server's refusal reads "FATAL:  28P01: password authentication failed ...". */
static void find_sqlstate(const char *message, char out[6])
{
    for (const char *p = strstr(message, ":  "); p; p = strstr(p + 1, ":  ")) {
        const char *code = p + 3;
        size_t len = 0;
        while (len < 5 &&
               (isdigit((unsigned char) code[len]) || isupper((unsigned char) code[len])))
            len++;
        if (len == 5 && code[5] == ':') {
            memcpy(out, code, 5);
            out[5] = '\0';
            return;
        }
    }
}

static void connect_hint(const char *message, struct error *err)
{
    const char *state = err->sqlstate;

    if (strcmp(state, "28P01") == 0)
        error_hint(
            err,
            "Check user and password: PGPASSFILE (~/.pgpass), PGPASSWORD or the service file.");
    else if (strcmp(state, "28000") == 0)
        error_hint(err,
                   "Check that the role exists and that pg_hba.conf lets it in from this host.");
    else if (strcmp(state, "3D000") == 0)
        error_hint(err, "Check the database's name in the connection string, or create it.");
    else if (strcmp(state, "53300") == 0)
        error_hint(
            err,
            "Free connection slots, or raise max_connections or the role's or database's limit.");
    else if (strcmp(state, "57P03") == 0)
        error_hint(err, "The server is starting, stopping or recovering; try again when it is up.");
    else if (strcmp(state, "42501") == 0)
        error_hint(err, "Use a superuser, give the role REPLICATION, or GRANT SET ON PARAMETER "
                        "session_replication_role (15 and later).");
    else if (strstr(message, "fe_sendauth"))
        error_hint(err, "Put the password into PGPASSFILE (~/.pgpass) or PGPASSWORD.");
    else if (strstr(message, "SSL") || strstr(message, "certificate"))
        error_hint(err, "Check sslmode, sslrootcert and the server's certificate.");
    else if (strstr(message, "translate host name"))
        error_hint(err, "Check the host's name and this machine's DNS.");
    else if (!state[0])
        error_hint(
            err, "Check that the server runs and listens there, and that no firewall is between.");
}

static bool connect_failed(const struct pg *pg, struct error *err)
{
    const char *text = pg->conn ? PQerrorMessage(pg->conn) : "out of memory";
    const char *location = strstr(text, "LOCATION:");
    size_t len = location ? (size_t) (location - text) : strlen(text);
    char line[900];

    while (len && isspace((unsigned char) text[len - 1]))
        len--;
    if (len >= sizeof line)
        len = sizeof line - 1;
    memcpy(line, text, len);
    line[len] = '\0';
    for (char *p = line; *p; p++)
        if (*p == '\n' || *p == '\t')
            *p = ' ';
    error_set(err, ERR_CONNECT, "cannot connect to %s: %s", pg->where, line);
    find_sqlstate(text, err->sqlstate);
    connect_hint(text, err);
    return false;
}

static int64_t connect_deadline(const PQconninfoOption *resolved)
{
    const char *text = conninfo_get(resolved, "connect_timeout");
    long seconds = text ? strtol(text, NULL, 10) : CONNECT_SECONDS;

    if (seconds <= 0)
        return CLOCK_NONE;
    return clock_in_ms(seconds * 1000);
}

static bool connect_poll(struct pg *pg, int64_t deadline, struct error *err)
{
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;

    for (;;) {
        int64_t slice = clock_in_ms(STOP_SLICE_MS);
        struct pollfd fd = {.fd = PQsocket(pg->conn)};

        if (PQstatus(pg->conn) == CONNECTION_BAD || fd.fd < 0)
            return connect_failed(pg, err);
        if (!stop_check(err))
            return false;
        if (clock_passed(deadline)) {
            error_set(err, ERR_CONNECT, "cannot connect to %s: no answer in time", pg->where);
            return error_hint(
                err, "Check the network; connect_timeout in the connection string sets the time.");
        }
        fd.events = state == PGRES_POLLING_READING ? POLLIN : POLLOUT;
        if (poll(&fd, 1, clock_poll_ms(slice < deadline ? slice : deadline)) <= 0)
            continue;
        state = PQconnectPoll(pg->conn);
        if (state == PGRES_POLLING_FAILED)
            return connect_failed(pg, err);
        if (state == PGRES_POLLING_OK)
            return true;
    }
}

static char *session_options(const char *own, enum pg_kind kind)
{
    struct strbuf sb = {0};

    if (own)
        strbuf_addf(&sb, "%s ", own);
    strbuf_addstr(&sb, timeouts_off);
    if (kind != PG_MIGRATE)
        strbuf_addstr(&sb, pinned);
    if (kind == PG_APPLY)
        strbuf_addstr(&sb, apply);
    return strbuf_take(&sb);
}

/* What only later versions know, and the encoding. */
static bool settle(struct pg *pg, const char *encoding, struct error *err)
{
    const char *server = PQparameterStatus(pg->conn, "server_encoding");
    const char *client = PQparameterStatus(pg->conn, "client_encoding");
    struct error ignored = {0};

    if (pg_version(pg) < 120000) {
        error_set(err, ERR_CONNECT, "%s runs PostgreSQL %d, and 12 is the oldest that is supported",
                  pg->where, pg_version(pg) / 10000);
        return error_hint(err, "Upgrade the server first.");
    }
    if (!encoding && pg->kind != PG_MIGRATE && server && client && strcmp(server, client) != 0 &&
        !pg_execf(pg, err, "SET client_encoding = '%s'", server))
        return false;
    if (pg_version(pg) >= 140000 && !pg_exec(pg, "SET idle_session_timeout = 0", err))
        return false;
    if (pg_version(pg) >= 170000 && !pg_exec(pg, "SET transaction_timeout = 0", err))
        return false;
    /* The decision, and what is said to be made, must survive a crash of the server. */
    if (pg->kind == PG_PLAIN &&
        !pg_exec(pg,
                 "SELECT pg_catalog.set_config('synchronous_commit', 'local', false) WHERE "
                 "pg_catalog.current_setting('synchronous_commit') = 'off'",
                 err))
        return false;
    /* Our death is noticed while a statement waits; not every server's platform can, so it may
     * fail. */
    if (pg_version(pg) >= 140000 && pg->kind != PG_WALSENDER &&
        !pg_exec(pg, "SET client_connection_check_interval = '1s'", &ignored) && pg_is_bad(pg)) {
        *err = ignored;
        return false;
    }
    return true;
}

bool pg_open(struct pg **out, const char *conninfo, const char *dbname, enum pg_kind kind,
             const char *run, const char *worker, const char *encoding, struct error *err)
{
    struct pg *pg = xcalloc(1, sizeof *pg);
    struct params p = {.n = 0};
    PQconninfoOption *given = conninfo_parse(conninfo, err);
    PQconninfoOption *resolved = given ? conninfo_resolve(conninfo, dbname, err) : NULL;
    char *options = NULL, *application = NULL;
    bool ok = false;

    *out = NULL;
    pg->kind = kind;
    pg->run = xstrdup(run);
    pg->deadline = CLOCK_NONE;
    pg->stoppable = true;
    if (!resolved)
        goto out;
    pg->where = xstrfmt(
        "%s:%s/%s", conninfo_get(resolved, "host") ? conninfo_get(resolved, "host") : "localhost",
        conninfo_get(resolved, "port") ? conninfo_get(resolved, "port") : "5432",
        conninfo_get(resolved, "dbname") ? conninfo_get(resolved, "dbname") : "");
    options = session_options(conninfo_get(resolved, "options"), kind);
    application = xstrfmt("pgcutover/%s/%s", run ? run : "-", worker);

    for (const PQconninfoOption *o = given; o->keyword; o++)
        if (o->val)
            params_set(&p, o->keyword, o->val);
    if (dbname)
        params_set(&p, "dbname", dbname);
    params_set(&p, "application_name", application);
    params_set(&p, "options", options);
    if (encoding)
        params_set(&p, "client_encoding", encoding);
    if (kind == PG_WALSENDER)
        params_set(&p, "replication", "database");
    params_default(&p, "keepalives", "1");
    params_default(&p, "keepalives_idle", "10");
    params_default(&p, "keepalives_interval", "5");
    params_default(&p, "keepalives_count", "3");
    params_default(&p, "tcp_user_timeout", "30000");
    p.keywords[p.n] = NULL;
    p.values[p.n] = NULL;

    pg->conn = PQconnectStartParams(p.keywords, p.values, 0);
    if (!pg->conn || PQstatus(pg->conn) == CONNECTION_BAD) {
        connect_failed(pg, err);
        goto out;
    }
    PQsetErrorVerbosity(pg->conn, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(pg->conn, ignore_notice, NULL);
    if (!connect_poll(pg, connect_deadline(resolved), err))
        goto out;
    PQsetErrorVerbosity(pg->conn, PQERRORS_DEFAULT);
    pg->deadline = connect_deadline(resolved);
    ok = settle(pg, encoding, err);
    pg->deadline = CLOCK_NONE;
out:
    PQconninfoFree(given);
    PQconninfoFree(resolved);
    free(options);
    free(application);
    if (ok)
        *out = pg;
    else
        pg_close(pg);
    return ok;
}

void pg_close(struct pg *pg)
{
    if (!pg)
        return;
    pg_forget_statements(pg);
    PQfinish(pg->conn);
    free(pg->run);
    free(pg->where);
    free(pg);
}

bool pg_is_bad(const struct pg *pg)
{
    return pg->bad || PQstatus(pg->conn) == CONNECTION_BAD;
}

int pg_version(const struct pg *pg)
{
    return PQserverVersion(pg->conn);
}

int pg_pid(const struct pg *pg)
{
    return PQbackendPID(pg->conn);
}

PGconn *pg_raw(struct pg *pg)
{
    return pg->conn;
}

void pg_set_deadline(struct pg *pg, int64_t deadline_us)
{
    pg->deadline = deadline_us;
}

void pg_set_stoppable(struct pg *pg, bool on)
{
    pg->stoppable = on;
}

void pg_set_interrupt(struct pg *pg, const atomic_bool *flag)
{
    pg->interrupt = flag;
}

bool pg_ping(struct pg *pg, struct error *err)
{
    return pg_exec(pg, "SELECT 1", err);
}

void pg_own_prefix(const struct pg *pg, const char *run, char out[64])
{
    char *text = NULL;

    if (!run)
        run = pg->run;
    text = run ? xstrfmt("pgcutover/%s/", run) : xstrdup("pgcutover/");
    copy_text(out, 64, text); /* application_name is cut at 63 bytes too */
    free(text);
}

/* The control file's timeline is that of the last checkpoint, which a promotion may precede. */
bool pg_identify(struct pg *pg, struct pg_identity *out, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), CASE WHEN "
        "pg_catalog.pg_is_in_recovery() THEN (SELECT timeline_id FROM "
        "pg_catalog.pg_control_checkpoint()) "
        "ELSE ('x' || "
        "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), "
        "1, 8))::bit(32)::int END, oid, datname FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()";

    memset(out, 0, sizeof *out);
    if (!pg_query(pg, &res, 1, sql, 0, NULL, err))
        return false;
    /* system_identifier is printed as a signed number */
    out->system_id = (uint64_t) strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    out->timeline = (uint32_t) strtoul(PQgetvalue(res, 0, 1), NULL, 10);
    out->database_oid = (uint32_t) strtoul(PQgetvalue(res, 0, 2), NULL, 10);
    copy_text(out->database, sizeof out->database, PQgetvalue(res, 0, 3));
    out->version = pg_version(pg);
    PQclear(res);
    return true;
}

bool pg_same_server(const struct pg_identity *a, const struct pg_identity *b)
{
    return a->system_id == b->system_id && a->timeline == b->timeline;
}

bool pg_same_database(const struct pg_identity *a, const struct pg_identity *b)
{
    return pg_same_server(a, b) && a->database_oid == b->database_oid;
}
