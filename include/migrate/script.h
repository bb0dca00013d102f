/*
 * script.h - one migration file taken apart by PostgreSQL's own parser (libpg_query): statements
 * with their lines, and what running them needs. Pure: no server. A plain value: zero-initialise,
 * release.
 */
#ifndef PGCUTOVER_MIGRATE_SCRIPT_H
#define PGCUTOVER_MIGRATE_SCRIPT_H

#include "base/sha256.h"
#include "base/strbuf.h"

enum statement_kind {
    STATEMENT_PLAIN,   /* runs inside a transaction */
    STATEMENT_SESSION, /* SET and RESET: what follows depends on it, so a resume says it again */
    STATEMENT_TRANSACTION, /* BEGIN, COMMIT, SAVEPOINT ... written in the file */
    STATEMENT_ALONE, /* not inside a transaction, may be repeated: VACUUM, REINDEX CONCURRENTLY ...
                      */
    STATEMENT_INDEX_ALONE, /* CREATE INDEX CONCURRENTLY: leaves an invalid index when it fails */
    STATEMENT_COMMITS,     /* DO with COMMIT or ROLLBACK in its body: not inside a transaction */
    STATEMENT_CALL         /* a procedure may commit, or not */
};

struct statement {
    size_t offset; /* of its first token in script.text */
    size_t len;    /* without the semicolon */
    int line;      /* in the file, from 1 */
    enum statement_kind kind;
    bool builds_index; /* CREATE INDEX or REINDEX: its progress can be watched */
    char *index;       /* name of the index made or rebuilt, or NULL */
    char *table; /* CREATE INDEX: its table as SQL, quoted, as qualified as in the file; or NULL */
    char checksum[SHA256_HEX_SIZE];
};

struct script {
    char
        *text; /* as long as the file; what isn't to be run is blanked, so lines and offsets stay */
    size_t len;
    struct statement *items;
    size_t n, cap;
    bool marked_no_transaction; /* by a comment */
    bool must_be_alone;         /* a statement can't run inside a transaction */
    bool own_transactions;      /* the file says BEGIN or COMMIT itself */
    bool sections;              /* dbmate's "-- migrate:up" was found */
};

/* file is for messages. numbered: dbmate's sections are looked for. ERR_MIGRATION with file and
 * line for a syntax error, a psql meta-command, COPY FROM stdin, a file without statements. */
bool script_parse(struct script *out, const char *file, const char *text, size_t len, bool numbered,
                  struct error *err) WARN_UNUSED;
void script_release(struct script *s);

/* The line of a byte in a text, from 1. */
int script_line(const char *text, size_t offset);
/* The statement's beginning on one line, at most max characters, "..." when cut. */
void script_excerpt(const struct script *s, const struct statement *st, size_t max,
                    struct strbuf *out);

/* Fills kind, builds_index, index and table of one statement from its own text. ERR_MIGRATION for
 * what can't be run from a file (COPY FROM stdin, COPY TO stdout). */
bool statement_classify(struct statement *st, const char *text, struct error *err) WARN_UNUSED;

#endif
