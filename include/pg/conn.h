/*
 * conn.h - connections to PostgreSQL and the only place that sends SQL.
 *
 * Every session of ours is pinned (DESIGN 6): DateStyle ISO, IntervalStyle postgres,
 * extra_float_digits 3, bytea_output hex, TimeZone UTC, lc_monetary C, search_path empty,
 * default_transaction_read_only off, statement, lock and idle timeouts off, TCP keepalives on,
 * application_name "pgcutover/<run>/<worker>". All calls are asynchronous underneath: they honour
 * the connection's deadline (CancelRequest, then ERR_TIMEOUT) and, when pg_set_stoppable is on (the
 * default), a stop request (ERR_STOPPED). One thread owns a connection. Errors carry SQLSTATE, the
 * server's detail and hint; never a password.
 */
#ifndef PGCUTOVER_PG_CONN_H
#define PGCUTOVER_PG_CONN_H

#include "base/clock.h"
#include "base/lsn.h"
#include "base/strbuf.h"

#include <libpq-fe.h>
#include <stdatomic.h>

struct pg;

enum pg_kind {
    PG_PLAIN,     /* pinned as above */
    PG_WALSENDER, /* replication=database, pinned: pgoutput writes values with the walsender's
                     settings */
    PG_APPLY,     /* pinned, session_replication_role=replica, synchronous_commit=on */
    PG_MIGRATE /* the user's own settings (search_path and all); only timeouts off and keepalives */
};

/* Identity: what tells two databases apart, and a failed-over server from itself. */
struct pg_identity {
    uint64_t system_id;
    uint32_t timeline;
    uint32_t database_oid;
    char database[64];
    int version; /* PQserverVersion, e.g. 150020 */
};

/* conninfo: keyword=value string or URI; dbname overrides its database when not NULL; encoding pins
 * client_encoding (NULL: the database's own, so that bytes pass unconverted). run may be NULL. */
bool pg_open(struct pg **out, const char *conninfo, const char *dbname, enum pg_kind kind,
             const char *run, const char *worker, const char *encoding,
             struct error *err) WARN_UNUSED;
void pg_close(struct pg *pg);        /* NULL is allowed */
bool pg_is_bad(const struct pg *pg); /* the connection is lost */
bool pg_ping(struct pg *pg, struct error *err) WARN_UNUSED;
int pg_version(const struct pg *pg); /* 150020 */
int pg_pid(const struct pg *pg);
PGconn *pg_raw(struct pg *pg); /* for COPY and the replication protocol only */

void pg_set_deadline(struct pg *pg,
                     int64_t deadline_us); /* of every later call; CLOCK_NONE by default */
void pg_set_stoppable(struct pg *pg, bool on);
/* Another thread's way to end what runs here: while *flag is true statements are cancelled and none
 * is begun: ERR_TIMEOUT. NULL: nobody's. */
void pg_set_interrupt(struct pg *pg, const atomic_bool *flag);

/* One statement with parameters (text; NULL is SQL NULL). expect_rows: PG_ANY or the exact number.
 * *out may be NULL when no rows are wanted; else the caller PQclears it. Also for commands (expect
 * PG_ANY). */
#define PG_ANY (-1)
bool pg_query(struct pg *pg, PGresult **out, int expect_rows, const char *sql, int nparams,
              const char *const *params, struct error *err) WARN_UNUSED;
/* Statements without parameters or wanted rows; several joined by ';' are one implicit transaction.
 */
bool pg_exec(struct pg *pg, const char *sql, struct error *err) WARN_UNUSED;
bool pg_execf(struct pg *pg, struct error *err, const char *fmt, ...) WARN_UNUSED PRINTF(3, 4);
/* One text value of one row (expects exactly one row, one column; NULL gives ""); caller frees
 * *out. */
bool pg_value(struct pg *pg, char **out, const char *sql, int nparams, const char *const *params,
              struct error *err) WARN_UNUSED;

/* A statement prepared on first use (by its whole text, TRAPS 10) and executed with parameters in
 * binary or text; types may be NULL. For replay and verification, whose SQL the map generates. */
struct pg_param {
    const char *data; /* NULL is SQL NULL */
    int len;
    int binary; /* 1 binary, 0 text (NUL-terminated) */
    Oid type;   /* 0: let the server infer */
};
bool pg_prepared(struct pg *pg, PGresult **out, const char *sql, int nparams,
                 const struct pg_param *params, struct error *err) WARN_UNUSED;
/* Binary text[] as a parameter: values[i] NULL is a NULL element; lens[i] bytes. Reset sb first. */
void pg_text_array(struct strbuf *sb, size_t n, const char *const *values, const int *lens);

bool pg_begin(struct pg *pg, const char *how,
              struct error *err) WARN_UNUSED; /* how: "" or "ISOLATION ..." */
bool pg_commit(struct pg *pg, struct error *err) WARN_UNUSED;
void pg_rollback(struct pg *pg); /* best effort: also after errors and on lost connections */

bool pg_identify(struct pg *pg, struct pg_identity *out, struct error *err) WARN_UNUSED;
bool pg_same_server(const struct pg_identity *a,
                    const struct pg_identity *b); /* system id and timeline */
bool pg_same_database(const struct pg_identity *a, const struct pg_identity *b);

/* Quoting for names and literals in generated SQL (standard_conforming_strings assumed on, as
 * pinned). */
void pg_add_ident(struct strbuf *sb, const char *name);   /* always quoted: "name" */
void pg_add_literal(struct strbuf *sb, const char *text); /* 'text' or E'..' */

/* The PG* environment (PGHOST=..., PGPASSWORD=...) that makes a child connect as conninfo does, so
 * that nothing secret is on its command line. NULL-terminated; free with pg_free_env. */
bool pg_child_env(const char *conninfo, const char *dbname, char ***env,
                  struct error *err) WARN_UNUSED;
void pg_free_env(char **env);
/* dbname of a conninfo (after service files and defaults); caller frees. */
bool pg_conninfo_dbname(const char *conninfo, char **dbname, struct error *err) WARN_UNUSED;
/* "host:port/dbname" for people. Caller frees. */
char *pg_conninfo_describe(const char *conninfo);

#endif
