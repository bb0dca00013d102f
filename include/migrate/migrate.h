/*
 * migrate.h - the release's migrations on green: a directory of SQL files in the naming of Flyway
 * (V1__a.sql), golang-migrate (0001_a.up.sql, .down.sql ignored) or dbmate (20260101120000_a.sql
 * with "-- migrate:up" and "-- migrate:down"; without these marks a numbered file runs as a whole),
 * with a history table; or a command.
 *
 * Exactly once however many start it at the same time: a session-level advisory lock on green that
 * isn't held inside a transaction (TRAPS 49), and the history row in the migration's own
 * transaction where it has one. A file opts out of its transaction with a comment before its first
 * statement, "-- pgcutover:no-transaction" (or dbmate's "transaction:false" on its migrate:up line,
 * or Flyway's executeInTransaction=false in FILE.conf), or when libpg_query finds a statement that
 * can't run in one (CREATE INDEX CONCURRENTLY, VACUUM, a DO that commits ...). A file that says
 * BEGIN or COMMIT itself opts out too, with a warning.
 *
 * Such a file is recorded statement by statement in pgcutover.migration_statement, so that a resume
 * goes on behind the last one that finished; its SETs are said again, and the invalid index that a
 * failed CREATE INDEX CONCURRENTLY left is dropped first.
 *
 * Flyway's repeatable files (R__name.sql) run after the others whenever their checksum changed, as
 * version "R__name"; its undo files (U...) are passed over.
 *
 * Errors are ERR_MIGRATION: file, line, the statement's beginning, SQLSTATE, the server's message
 * and detail.
 */
#ifndef PGCUTOVER_MIGRATE_MIGRATE_H
#define PGCUTOVER_MIGRATE_MIGRATE_H

#include "migrate/script.h"
#include "pg/conn.h"

enum migrate_transaction { MIGRATE_EACH, MIGRATE_ALL, MIGRATE_NONE };

struct migration {
    char *version; /* "1", "1.2" (V1_2__x), "0001", "20260101120000", "R__name" */
    char *name;    /* the rest, for people */
    char *path;
    char *file;            /* base name */
    char checksum[65];     /* SHA-256 hex of the file */
    bool no_transaction;   /* marked so, or a statement demands it, or own_transactions */
    bool own_transactions; /* the file says BEGIN or COMMIT itself */
    bool repeatable;
    bool numbered; /* golang-migrate, dbmate or just a number: not Flyway */
    size_t nstatements;
};

struct migration_list {
    struct migration *items;
    size_t n, cap;
};

/* Files in version order (numeric by parts). Everything is parsed (libpg_query): a syntax error
 * names file and line. Two files of one version, a mixture of naming schemes, an empty file, a name
 * that fits none: ERR_MIGRATION. */
#define MIGRATE_FILE_CEILING ((size_t) 256 << 20)
bool migrate_list(const char *directory, struct migration_list *out, struct error *err) WARN_UNUSED;
void migrate_list_release(struct migration_list *l);
/* By numeric parts: 1.10 > 1.9, 1.0 = 1, 0001 = 1; repeatable ones after all others, by name. */
int migrate_compare_versions(const char *a, const char *b);
/* The file as it was when listed (its checksum must still match), taken apart; script_release it.
 */
bool migrate_load(const struct migration *m, struct script *out, struct error *err) WARN_UNUSED;

struct migrate_options {
    const char *conninfo;
    const char *dbname;
    const char *run;
    const char *history_table; /* "schema.table"; schema is made when missing */
    enum migrate_transaction transaction;
    int64_t lock_timeout_us; /* of the migrations' session; 0: none */
    const char *log_path;    /* one JSON line a statement: file, line, ms, rows, tag */
};

/* Runs what the history lacks. Checksums of applied files must match; a version below the newest
 * applied one that is missing from the history is refused, naming it. *applied counts files run
 * now. Index builds and such are reported as progress events from pg_stat_progress_create_index (a
 * second session). */
bool migrate_run(const struct migration_list *l, const struct migrate_options *o, int *applied,
                 struct error *err) WARN_UNUSED;
/* The playbook's command, with the PG* environment set to green; output to log_path. */
bool migrate_command(const char *command, const struct migrate_options *o,
                     struct error *err) WARN_UNUSED;

/* Every statement in order, for `plan`: file:line, beginning of the text. */
bool migrate_describe(const struct migration_list *l, struct strbuf *out,
                      struct error *err) WARN_UNUSED;

#endif
