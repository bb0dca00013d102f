/*
 * private.h - what the files of src/pg share and nobody else sees.
 */
#ifndef PGCUTOVER_PG_PRIVATE_H
#define PGCUTOVER_PG_PRIVATE_H

#include "pg/slot.h"

struct pg_statement;

struct pg {
    PGconn *conn;
    enum pg_kind kind;
    char *run;   /* NULL when opened without one */
    char *where; /* host:port/dbname, for messages */
    int64_t deadline;
    bool stoppable;
    const atomic_bool *interrupt; /* or NULL */
    bool bad;
    struct pg_statement *statements;
    size_t nstatements, capstatements;
    uint64_t next_statement;
};

/* One call to the server, possibly of several statements, whose results come in piece by piece. */
struct pg_call {
    PGresult *result; /* of the last statement that succeeded */
    size_t completed; /* how many statements did */
    bool failed;
    struct error error; /* of the first that did not */
};

/* Sends sql by the simple protocol and returns at once. */
bool pg_start(struct pg *pg, const char *sql, struct error *err) WARN_UNUSED;
/* Takes in what has come until the call is over (true) or the time is (false). */
bool pg_pump(struct pg *pg, struct pg_call *call, int64_t until_us);
/* Waits for the end within the connection's deadline, honouring a stop request. */
bool pg_collect(struct pg *pg, struct pg_call *call, struct error *err) WARN_UNUSED;
/* Asks the server to cancel, waits a bounded time for the call's end. False: the connection is
 * given up. */
bool pg_cancel(struct pg *pg, struct pg_call *call);
void pg_call_release(struct pg_call *call);
bool pg_in_transaction(const struct pg *pg);
/* Simple protocol whatever happens: no deadline, no stop. For COMMIT. */
bool pg_exec_undisturbed(struct pg *pg, const char *sql, PGresult **out,
                         struct error *err) WARN_UNUSED;

void pg_forget_statements(struct pg *pg);

/* To stand before DDL of ours in its transaction: event triggers of the user's don't fire, which
 * might log it into a table that we have just fenced, or refuse it. "" without the right. */
const char *pg_quiet_ddl(struct pg *pg);
/* deadlock_timeout may be set by us: superuser, or GRANT SET ON PARAMETER from 15 on. */
bool pg_may_set_deadlock_timeout(struct pg *pg);

/* explicit conninfo, service file, environment and defaults, as libpq would combine them;
 * PQconninfoFree. */
PQconninfoOption *conninfo_resolve(const char *conninfo, const char *dbname, struct error *err);
PQconninfoOption *conninfo_parse(const char *conninfo, struct error *err);
const char *conninfo_get(const PQconninfoOption *options, const char *keyword);

/* Result fields. */
const char *res_text(const PGresult *res, int row, int col); /* "" for NULL */
int64_t res_int(const PGresult *res, int row, int col);      /* 0 for NULL */
Oid res_oid(const PGresult *res, int row, int col);
bool res_bool(const PGresult *res, int row, int col);
char res_char(const PGresult *res, int row, int col); /* '\0' for "" and NULL */
lsn_t res_lsn(const PGresult *res, int row, int col);
void copy_text(char *to, size_t size, const char *from); /* cut at size */

/* "pgcutover/<run>/" cut as the server cuts application_name; the connection's own run when run is
 * NULL. */
void pg_own_prefix(const struct pg *pg, const char *run, char out[64]);

/* {1,2,3} as text, for parameters cast to oid[] or int8[]. */
void add_oid_array(struct strbuf *sb, const Oid *oids, size_t n);

/* Who holds locks on relation (0: on any of the database's own) that others may wait for. A line
 * each. */
void pg_lock_holders(struct pg *pg, Oid relation, struct strbuf *out);
bool pg_ddl_on(struct pg *pg, Oid relation, const char *sql, int lock_timeout_ms,
               int64_t deadline_us, struct error *err) WARN_UNUSED;

/* Schema pgcutover with all its tables, in the open transaction or one of its own. */
bool facts_create_schema(struct pg *pg, struct error *err) WARN_UNUSED;

#define DDL_LOCK_TIMEOUT_MS 500
#define DDL_DEADLINE_MS 60000
#define FENCE_TRIGGER "pgcutover_fence"
/* Namespaces of the user's own objects; n is pg_namespace. */
#define USER_NAMESPACE                                                                             \
    "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> 'pgcutover'"

#endif
