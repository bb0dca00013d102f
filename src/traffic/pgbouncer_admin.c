/* pgbouncer_admin.c - a connection to PgBouncer's admin console, never waiting past a deadline. */
#include "private.h"

#include "base/alloc.h"
#include "sys/stop.h"

#include <ctype.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define STOP_SLICE_MS 100
#define RETRY_MS 50
#define MAX_PARAMS 80

struct console {
    const char *conninfo; /* the playbook's */
    char *where;
    char *application;
    PGconn *conn;
};

static void ignore_notice(void *arg, const PGresult *res)
{
    (void) arg;
    (void) res;
}

struct console *console_new(const char *conninfo, const char *run)
{
    struct console *c = xcalloc(1, sizeof *c);

    c->conninfo = conninfo;
    c->where = pg_conninfo_describe(conninfo);
    c->application = xstrfmt("pgcutover/%s/traffic", run ? run : "-");
    return c;
}

void console_free(struct console *c)
{
    if (!c)
        return;
    console_disconnect(c);
    free(c->where);
    free(c->application);
    free(c);
}

const char *console_where(const struct console *c)
{
    return c->where;
}

void console_disconnect(struct console *c)
{
    PQfinish(c->conn);
    c->conn = NULL;
}

int console_socket(const struct console *c)
{
    return c->conn ? PQsocket(c->conn) : -1;
}

/* libpq's and PgBouncer's texts on one line. */
static void one_line(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < size; text++)
        out[n++] = isspace((unsigned char) *text) ? ' ' : *text;
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}

static bool no_answer(const struct console *c, struct error *err)
{
    error_set(err, ERR_TRAFFIC, "PgBouncer at %s did not answer in time", c->where);
    return error_hint(err, "Check that it runs and that the network lets us through; "
                           "timeout in the playbook sets the time.");
}

static bool cannot_connect(const struct console *c, bool *again, struct error *err)
{
    const char *text = c->conn ? PQerrorMessage(c->conn) : "out of memory";
    char line[700];

    one_line(line, sizeof line, text);
    error_set(err, ERR_TRAFFIC, "cannot connect to PgBouncer's admin console at %s: %s", c->where,
              line);
    *again = !strstr(text, "FATAL:") && !strstr(text, "fe_sendauth");
    if (strstr(text, "authentication failed") || strstr(text, "fe_sendauth") ||
        strstr(text, "no such user"))
        return error_hint(err, "Check the admin connection's user and password: PGPASSFILE "
                               "(~/.pgpass), PGPASSWORD or the service file.");
    if (strstr(text, "not allowed"))
        return error_hint(err, "Add the user to admin_users in PgBouncer's configuration.");
    if (strstr(text, "startup parameter"))
        return error_hint(err, "PgBouncer takes no startup options: leave them out of the "
                               "connection string, and unset PGOPTIONS.");
    if (strstr(text, "shut")) {
        *again = true;
        return error_hint(err, "PgBouncer is being stopped; try again when it is up.");
    }
    return error_hint(err, "Check that PgBouncer runs, and the host and port of the playbook's "
                           "admin connection.");
}

/* Waits for the socket. False: the time is over or a stop was asked for. */
static bool wait_ready(const struct console *c, short events, const struct patience *how,
                       struct error *err)
{
    for (;;) {
        struct pollfd fd = {.fd = PQsocket(c->conn), .events = events};
        int64_t slice = clock_in_ms(STOP_SLICE_MS);

        if (how->stoppable && !stop_check(err))
            return false;
        if (clock_passed(how->deadline_us))
            return no_answer(c, err);
        if (poll(&fd, 1, clock_poll_ms(slice < how->deadline_us ? slice : how->deadline_us)) > 0)
            return true;
    }
}

struct params {
    const char *keywords[MAX_PARAMS];
    const char *values[MAX_PARAMS];
    size_t n;
};

static void param(struct params *p, const char *keyword, const char *value, bool override)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->keywords[i], keyword) != 0)
            continue;
        if (override)
            p->values[i] = value;
        return;
    }
    if (p->n + 1 >= MAX_PARAMS)
        BUG("more connection options than there is room for");
    p->keywords[p->n] = keyword;
    p->values[p->n++] = value;
}

static PGconn *start_connecting(const struct console *c, struct error *err)
{
    struct params p = {.n = 0};
    PQconninfoOption *given = PQconninfoParse(c->conninfo, NULL);

    /* libpq's own message quotes pieces of the string, and one may be a password */
    if (!given) {
        error_set(err, ERR_TRAFFIC, "the admin connection string of PgBouncer can't be read");
        error_hint(err, "Write it as keyword=value pairs or as a postgresql:// URI.");
        return NULL;
    }
    for (const PQconninfoOption *o = given; o->keyword; o++)
        if (o->val && o->val[0])
            param(&p, o->keyword, o->val, true);
    param(&p, "dbname", "pgbouncer", false);
    param(&p, "application_name", c->application, true);
    param(&p, "keepalives_idle", "10", false);
    param(&p, "keepalives_interval", "5", false);
    param(&p, "keepalives_count", "3", false);
    param(&p, "tcp_user_timeout", "30000", false);
    PGconn *conn = PQconnectStartParams(p.keywords, p.values, 0);
    PQconninfoFree(given);
    if (!conn)
        error_set(err, ERR_TRAFFIC, "out of memory");
    return conn;
}

/* again: what failed may be over in a moment. */
static bool connect_once(struct console *c, const struct patience *how, bool *again,
                         struct error *err)
{
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;

    *again = false;
    console_disconnect(c);
    c->conn = start_connecting(c, err);
    if (!c->conn)
        return false;
    while (state != PGRES_POLLING_OK) {
        if (PQstatus(c->conn) == CONNECTION_BAD || PQsocket(c->conn) < 0)
            return cannot_connect(c, again, err);
        if (!wait_ready(c, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, how, err))
            return false;
        state = PQconnectPoll(c->conn);
        if (state == PGRES_POLLING_FAILED)
            return cannot_connect(c, again, err);
    }
    PQsetNoticeReceiver(c->conn, ignore_notice, NULL);
    if (PQsetnonblocking(c->conn, 1) != 0)
        return cannot_connect(c, again, err);
    return true;
}

/* A console that PgBouncer closed since the last command is seen now, not by the next command. */
static bool is_alive(struct console *c)
{
    struct pollfd fd = {.fd = console_socket(c), .events = POLLIN};

    if (!c->conn || fd.fd < 0)
        return false;
    if (poll(&fd, 1, 0) > 0 && !PQconsumeInput(c->conn))
        return false;
    return PQstatus(c->conn) == CONNECTION_OK && PQtransactionStatus(c->conn) != PQTRANS_ACTIVE;
}

bool console_connect(struct console *c, const struct patience *how, struct error *err)
{
    bool again = false;

    while (!is_alive(c)) {
        if (connect_once(c, how, &again, err))
            break;
        console_disconnect(c);
        if (!again || !how->patient || clock_passed(how->deadline_us))
            return false;
        clock_sleep_ms(RETRY_MS);
    }
    return true;
}

static bool flush(struct console *c, const struct patience *how, bool *lost, struct error *err)
{
    int rc;

    *lost = false;
    while ((rc = PQflush(c->conn)) > 0)
        if (!wait_ready(c, POLLOUT, how, err))
            return false;
    *lost = rc < 0;
    return rc == 0;
}

static bool lost(const struct console *c, struct error *err)
{
    error_set(err, ERR_TRAFFIC, "the connection to PgBouncer at %s was lost", c->where);
    return error_hint(err, "See whether PgBouncer was restarted.");
}

bool console_start(struct console *c, const struct patience *how, const char *command,
                   struct error *err)
{
    bool gone = false;

    for (int tries = 0; tries < 2; tries++) {
        if (!console_connect(c, how, err))
            return false;
        gone = !PQsendQuery(c->conn, command);
        if (!gone && flush(c, how, &gone, err))
            return true;
        console_disconnect(c);
        if (!gone)
            return false;
    }
    return lost(c, err);
}

enum answer console_take(struct console *c, PGresult **out)
{
    PGresult *res;

    if (!c->conn)
        return ANSWER_LOST;
    if (!PQconsumeInput(c->conn)) {
        console_disconnect(c);
        return ANSWER_LOST;
    }
    if (PQisBusy(c->conn))
        return ANSWER_PENDING;
    while (!PQisBusy(c->conn)) {
        res = PQgetResult(c->conn);
        if (!res && *out && PQstatus(c->conn) == CONNECTION_OK)
            return ANSWER_READY;
        if (!res)
            break;
        PQclear(*out);
        *out = res;
    }
    if (PQstatus(c->conn) == CONNECTION_OK && PQtransactionStatus(c->conn) == PQTRANS_ACTIVE)
        return ANSWER_PENDING;
    PQclear(*out);
    *out = NULL;
    console_disconnect(c);
    return ANSWER_LOST;
}

bool console_accept(const struct console *c, const char *command, const PGresult *res,
                    struct error *err)
{
    ExecStatusType status = PQresultStatus(res);
    const char *said;
    char line[700];

    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
        return true;
    said = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    one_line(line, sizeof line, said ? said : PQresultErrorMessage(res));
    error_set(err, ERR_TRAFFIC, "PgBouncer at %s refused %s: %s", c->where, command, line);
    if (strstr(line, "admin access needed"))
        error_hint(err, "Add the user of the admin connection to admin_users in PgBouncer's "
                        "configuration; stats_users may look only.");
    return false;
}

/* Waits for the whole answer; *gone when the connection went first. */
static bool collect(struct console *c, const struct patience *how, PGresult **res, bool *gone,
                    struct error *err)
{
    for (;;) {
        enum answer a = console_take(c, res);
        *gone = a == ANSWER_LOST;
        if (a != ANSWER_PENDING)
            return a == ANSWER_READY;
        if (!wait_ready(c, POLLIN, how, err)) {
            console_disconnect(c);
            return false;
        }
    }
}

bool console_command(struct console *c, const struct patience *how, const char *command,
                     PGresult **out, struct error *err)
{
    for (int tries = 0;; tries++) {
        PGresult *res = NULL;
        bool gone = false;

        if (!console_start(c, how, command, err))
            return false;
        if (collect(c, how, &res, &gone, err)) {
            bool ok = console_accept(c, command, res, err);
            if (ok && out)
                *out = res;
            else
                PQclear(res);
            return ok;
        }
        PQclear(res);
        if (!gone)
            return false;
        if ((tries > 0 && !how->patient) || clock_passed(how->deadline_us))
            return lost(c, err);
        clock_sleep_ms(tries > 0 ? RETRY_MS : 0);
    }
}
