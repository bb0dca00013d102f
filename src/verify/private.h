/*
 * private.h - what the files of src/verify share and nobody else sees.
 *
 * A vsession is a pair of connections and one thread's working memory. A vgroup is what counts are
 * compared for: one target table and every source table that feeds it (the leaves of a partitioned
 * root, merged tables).
 */
#ifndef PGCUTOVER_VERIFY_PRIVATE_H
#define PGCUTOVER_VERIFY_PRIVATE_H

#include "verify/compare_sql.h"
#include "verify/verify.h"

/* Rows of text values, column by column: ready to be bound as arrays. Values are borrowed. */
struct vblock {
    size_t n, cap, ncols;
    const char **values; /* [column * cap + row]; NULL is SQL NULL */
    int *lens;
};
void vblock_shape(struct vblock *b, size_t ncols, size_t cap); /* empties it */
void vblock_add(struct vblock *b, const PGresult *res, int row, int first_field);
void vblock_add_row(struct vblock *b, const struct vblock *from, size_t row);
/* Rows of b from there on, as many as go well into one message: a view, never to be released. */
struct vblock vblock_part(const struct vblock *b, size_t from);
void vblock_add_texts(struct vblock *b, char *const *values, const int *lens);
/* From keys in the order of source_key to the order of source_columns. */
void vblock_key_columns(struct vblock *b, const struct map_table *mt, const struct vblock *keys);
void vblock_release(struct vblock *b);

struct vsession {
    struct pg *source, *target;
    const struct map *map;
    bool scanning;         /* the target's planner settings: see vsession_lookups */
    bool tuned;            /* they have been set at all */
    struct strbuf *arrays; /* one per bound column, kept for the next block */
    struct pg_param *params;
    size_t nparams;
};

bool vsession_open(struct vsession *s, const struct verify_options *o, const char *worker,
                   struct error *err) WARN_UNUSED;
/* Transactions on both sides, importing the snapshots that the sides name. */
bool vsession_begin(struct vsession *s, const struct verify_options *o,
                    struct error *err) WARN_UNUSED;
void vsession_end(struct vsession *s); /* rolls both back */
void vsession_close(struct vsession *s);
/* Planner settings on the target (and for lookups on the source): by index, row by row, or as the
 * server likes. */
bool vsession_lookups(struct vsession *s, struct error *err) WARN_UNUSED;
bool vsession_scans(struct vsession *s, struct error *err) WARN_UNUSED;
/* sql with the block's columns as $1..; on either connection. Released by the caller. ERR_FULL when
 * it's more than a server takes in one message. */
bool vsession_bound(struct vsession *s, struct pg *pg, const char *sql, const struct vblock *b,
                    PGresult **out, struct error *err) WARN_UNUSED;

void vsession_unbind(struct vsession *s); /* frees what binding took */

int64_t result_int(const PGresult *res, int row, int field);

/* Sums of two 64-bit hashes over up to 2^63 rows. */
struct multiset {
    int64_t rows;
    __int128 sum[2];
};

struct vgroup {
    const struct cat_table *target;
    size_t *tables; /* indexes into the map */
    size_t ntables, captables;
    bool keyless;  /* compared as multisets: one of its tables has no key */
    bool excepted; /* changed as a whole since: nothing can be said about it */
    size_t pieces_left;
    int64_t found; /* rows of the target that a source row reached */
    struct multiset source;
};
/* Groups of a map, by target; of[i] is the group of table i, or -1. */
struct vgroup *vgroups_new(const struct map *map, size_t *n, int **of);
void vgroups_free(struct vgroup *groups, size_t n, int *of);

/* What one piece of a table (heap pages [from, to)) gave; to < 0: to the end. */
struct vpiece {
    const struct map_table *table;
    int64_t from, to;
    int64_t rows, found, proved, excepted, missing, differing;
    int64_t *column_diffs;
    struct strbuf examples;
    int nexamples;
    struct multiset multiset;
    char *suggestion;
};
void vpiece_init(struct vpiece *p, const struct map_table *mt);
void vpiece_release(struct vpiece *p);

struct vscan {
    const struct verify_options *o;
    struct touched *except; /* or NULL */
    /* after each block, or NULL; false ends the scan */
    bool (*progress)(void *ctx, const struct map_table *mt, int64_t rows, struct error *err);
    /* a row that isn't equal, instead of counting it: the tail takes its key; or NULL */
    void (*differs)(void *ctx, const struct map_table *mt, const struct vblock *b, size_t row);
    void *ctx;
};
/* Reads the piece's source rows in blocks and compares each block. Both sessions are in
 * transactions. */
bool vpiece_scan(struct vsession *s, const struct vscan *scan, struct vpiece *p, bool keyless,
                 struct error *err) WARN_UNUSED;

/* One block: rows that aren't equal, each with missing and mask (text of a bool[]). */
struct vdiff {
    size_t row;
    bool missing;
    char *mask;
};
struct vdiffs {
    struct vdiff *items;
    size_t n, cap;
};
bool vblock_compare(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                    struct vdiffs *out, struct error *err) WARN_UNUSED;
void vdiffs_release(struct vdiffs *d);
bool mask_bit(const char *mask, size_t check);
/* "key (id=7): column total: expected 10, found 12" for one row of b. */
bool vblock_example(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                    const struct vdiff *d, struct strbuf *out, struct error *err) WARN_UNUSED;
/* "id=7, line=2" from a row of all source columns, or from a row of key texts. */
void describe_value(struct strbuf *out, const char *value); /* 'quoted', cut, on one line */
void describe_key(struct strbuf *out, const struct map_table *mt, const struct vblock *b,
                  size_t row, bool only_key);

/* A rule that gives what the target has, tried on the rows of b. *out NULL when none was found. */
bool suggest_rule(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                  const struct vdiffs *diffs, char **out, struct error *err) WARN_UNUSED;

/* Target rows that no source row reached: the group's count, then up to o->examples keys of such
 * rows. */
bool vgroup_count(struct vsession *s, struct touched *except, const struct vgroup *g, int64_t *rows,
                  int64_t *extra, struct error *err) WARN_UNUSED;
/* Streams the target's keys past the source; calls back for each that the source doesn't have,
 * until false. keys: as texts of the source's key columns, in their order. Keys in except are
 * passed over. Does nothing when the keys aren't plain copies or one of them can't be a value of
 * the source. */
typedef bool extra_fn(void *ctx, const struct map_table *mt, const struct vblock *keys, size_t row);
bool vgroup_extras(struct vsession *s, const struct verify_options *o, struct touched *except,
                   const struct vgroup *g, extra_fn *fn, void *ctx, struct error *err) WARN_UNUSED;
bool vgroup_key_is_plain(const struct map *map, const struct vgroup *g);

/* Tables without a key. */
bool multiset_add_block(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                        struct multiset *sum, struct error *err) WARN_UNUSED;
bool multiset_of_target(struct vsession *s, const struct map_table *mt, struct multiset *sum,
                        struct error *err) WARN_UNUSED;
bool multiset_same_by_servers(struct vsession *s, const struct map_table *mt, bool *same,
                              int64_t *rows, struct error *err) WARN_UNUSED;
bool multiset_equal(const struct multiset *a, const struct multiset *b);
/* Which rows they are, by row hashes held in memory: exact numbers and examples into tables (by map
 * index); *known = false, and nothing done, when there are too many. */
bool multiset_explain(struct vsession *s, const struct verify_options *o, const struct vgroup *g,
                      struct verify_table *tables, bool *known, struct error *err) WARN_UNUSED;

/* Source rows in blocks of bounded size. Order: open, next until *res NULL, close. */
struct vcursor {
    struct pg *pg;
    const char *name;
    int64_t next;                  /* rows to fetch */
    int64_t limit;                 /* never more than these */
    int64_t seen;                  /* rows fetched so far */
    int64_t wide_limit, wide_rows; /* from the table's average row: no more than wide_limit at once
                                    * until there were more than wide_rows; or 0 */
    bool open;
};
bool vcursor_open(struct vcursor *c, struct pg *pg, const char *name, const char *sql,
                  int block_rows, struct error *err) WARN_UNUSED;
/* Its rows are whole ones of t: how wide they may be. Without it the first fetch is of one row. */
void vcursor_expect(struct vcursor *c, const struct cat_table *t);
bool vcursor_next(struct vcursor *c, PGresult **res, struct error *err) WARN_UNUSED;
bool vcursor_close(struct vcursor *c, struct error *err) WARN_UNUSED;

void vgroup_add(struct vgroup *g, const struct vpiece *p); /* the piece's rows are in */
/* A group compared from end to end by one session: in verifier_final. */
bool vgroup_compare(struct vsession *s, const struct vscan *scan, struct vgroup *g,
                    struct verify_table *tables, struct error *err) WARN_UNUSED;
/* The last piece of a group is in: counts, extra rows, multisets. tables: the result's, by map
 * index. */
bool vgroup_finish(struct vsession *s, const struct vscan *scan, struct vgroup *g,
                   struct verify_table *tables, struct error *err) WARN_UNUSED;
void verify_table_init(struct verify_table *vt, const struct map_table *mt);
void verify_table_release(struct verify_table *vt);
void verify_table_merge(struct verify_table *vt, struct vpiece *p, int64_t elapsed_us);
void describe_table(struct strbuf *out, const struct verify_table *vt);

#endif
