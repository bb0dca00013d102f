/*
 * verify.h - row by row comparison of the two sides through the map.
 *
 * Full comparison happens at ONE LSN: two exported snapshots that the caller made so (DESIGN 6).
 * Source rows are read as text and bound to green in blocks; green takes them through the map
 * (map/project.h, the very expressions that replay uses), joins its own rows by the key and answers
 * only what differs. Every source row that finds its equal, and equal counts on both sides, is
 * equality of the tables. Tables without a key are compared as multisets. Canonical text per column
 * under pinned settings, never record hashes (TRAPS 59).
 */
#ifndef PGCUTOVER_VERIFY_VERIFY_H
#define PGCUTOVER_VERIFY_VERIFY_H

#include "map/map.h"
#include "map/touched.h"

struct verify_side {
    const char *conninfo;
    const char *dbname;   /* or NULL */
    const char *snapshot; /* exported snapshot to import */
};

struct verify_options {
    const char *run;
    const char *encoding; /* the source's; client_encoding of all sessions */
    const struct map *map;
    struct verify_side source, target;
    struct touched *except; /* keys left out (prove), or NULL */
    int jobs;               /* tables in parallel: threads with two sessions each */
    int block_rows;
    int examples;             /* per table */
    void (*ready)(void *ctx); /* called once all sessions have imported their snapshots: the caller
                               * may let the exporting ones go and replay go on */
    void *ctx;
};

struct verify_table {
    const struct map_table *table;
    bool compared; /* false: skipped by the map */
    int64_t source_rows, target_rows,
        proved;       /* proved: source rows that were compared and found equal */
    int64_t excepted; /* left out because changed meanwhile */
    int64_t missing, extra, differing;
    int64_t *column_diffs; /* per map column, then per rest column: rows in which it differs */
    char *examples;        /* text for people: key, column, both values; a line each */
    char *suggestion;      /* a rule to try, where it can be told; or NULL */
    int64_t elapsed_us;
};

struct verify_result {
    struct verify_table *tables; /* map order; partitions of one root have their target rows counted
                                  * once, at the first leaf: the others have target_rows -1 */
    size_t ntables;
    int64_t rows, differing; /* differing: missing + extra + differing of all */
    size_t unproved;         /* tables in which no row could be proved though the source has rows */
};

bool verify_full(const struct verify_options *o, struct verify_result *out,
                 struct error *err) WARN_UNUSED;
void verify_result_release(struct verify_result *r);
/* A block per differing table: names, counts per column, examples, suggestion. */
void verify_describe(struct strbuf *out, const struct map *map, const struct verify_result *r);

/*
 * The tail: keys that replay touched since they were last compared. One struct verifier owns two
 * sessions. verifier_pass (while replay runs): takes keys, reads both sides live, puts back what
 * differs: equal once after the last change is equal, since a later change adds the key again.
 * verifier_final (fenced and drained): whatever differs now is a real difference.
 */
struct verifier;
struct verifier_stats {
    int64_t compared; /* keys found equal so far */
    int64_t waiting;  /* keys to be compared */
    int64_t whole;    /* tables to be compared as a whole */
    int64_t
        suspicious; /* keys that differed three passes in a row although replay had passed them */
};
bool verifier_open(struct verifier **out, const struct verify_options *o, struct touched *touched,
                   struct error *err) WARN_UNUSED;
void verifier_close(struct verifier *v);
bool verifier_pass(struct verifier *v, size_t max_keys, struct verifier_stats *stats,
                   struct error *err) WARN_UNUSED;
/* Compares every waiting key and every whole table touched since; *differing and *describe
 * (malloc'd text or NULL). Honour the deadline: ERR_BUDGET. */
bool verifier_final(struct verifier *v, int64_t deadline_us, int64_t *compared, int64_t *differing,
                    char **describe, struct error *err) WARN_UNUSED;
/* How long verifier_final would take now, from measured rates: for the gate. */
int64_t verifier_estimate_us(struct verifier *v);

/*
 * What replica-role sessions don't enforce: foreign keys that the source doesn't have, and
 * deferrable unique constraints. Checked as a whole before the gate, and for changed keys in
 * confirm: constraint_checks_derive once, constraint_checks_run (which reads from the server with
 * what operators to compare), then constraint_checks_run_changed as often as wanted, also in
 * another thread than later full runs.
 */
struct constraint_check {
    const struct cat_foreign_key *fkey; /* or */
    const struct cat_unique *unique;
    const struct cat_table *table;     /* that it constrains */
    const struct cat_table *ref_table; /* that the foreign key refers to, or NULL */
    char *sql;                         /* finds violations, LIMIT 3 */
    char *violation;                   /* text of what was found; NULL when satisfied */
    int64_t elapsed_us;                /* of the last full run */
    /* read by the first run: */
    bool ready;
    bool impossible; /* it can't be checked, and that was said */
    bool indexed;    /* rows that refer to a given one are found by an index of the child */
    char **child_equals, **parent_equals; /* per column, "OPERATOR(pg_catalog.=)": the parent's
                                             column with the child's, and with its like */
    char *conflict;                       /* unique: over rows a and b */
};
struct constraint_checks {
    struct constraint_check *items;
    size_t n, cap;
};
bool constraint_checks_derive(struct constraint_checks *out, const struct map *map,
                              struct error *err) WARN_UNUSED;
/* Runs all; ERR_NOGO naming constraint, table and rows on the first violation. green's own deadline
 * is cleared. */
bool constraint_checks_run(struct constraint_checks *c, struct pg *green, int64_t deadline_us,
                           struct error *err) WARN_UNUSED;
/* One of them. */
bool constraint_check_run(struct constraint_check *c, struct pg *green,
                          struct error *err) WARN_UNUSED;
/* The same for what changed since: rows of changed keys that lack their parent, rows whose parent
 * went with a changed key, rows that collide with a changed one. changed stays as it is; NULL or
 * empty: nothing is asked. A check of which more changed than keys can say (touched_whole, tables
 * without a key, a reference to other columns than the key) is made in full. On green, outside of a
 * transaction. ERR_NOGO as above, ERR_BUDGET on the deadline; green's own deadline is cleared. */
bool constraint_checks_run_changed(struct constraint_checks *c, struct pg *green,
                                   const struct map *map, struct touched *changed,
                                   int64_t deadline_us, struct error *err) WARN_UNUSED;
/* What constraint_checks_run_changed would look at: keys of tables that the checks are about, and
 * how many checks it would make in full. */
struct constraint_backlog {
    size_t keys, full;
};
void constraint_checks_backlog(const struct constraint_checks *c, const struct map *map,
                               struct touched *changed, struct constraint_backlog *out);
/* Why changed rows may cost as much as the full run, for people; or NULL. After the first run. */
const char *constraint_check_costly(const struct constraint_check *c, const struct map *map);
void constraint_checks_release(struct constraint_checks *c);

#endif
