/* batch_private.h - what the files of the batch share and nobody else sees. */
#ifndef PGCUTOVER_REPL_BATCH_PRIVATE_H
#define PGCUTOVER_REPL_BATCH_PRIVATE_H

#include "map/project.h"
#include "repl/batch.h"

enum op { OP_INSERT, OP_UPDATE, OP_DELETE, OP_REKEY };

/* One change as the source sent it, its values in the order of source_columns. In the arena. */
struct change {
    struct change *next;        /* in the source's order */
    struct change *next_single; /* in its step */
    struct table *table;
    enum op op;
    bool partial; /* some of row's values are unchanged TOAST, which wasn't sent */
    lsn_t commit_lsn;
    const struct pgo_value *row; /* new; NULL for a delete */
    const struct pgo_value *key; /* a row that has the old key's values at their places */
    const struct pgo_value *old; /* the whole old row, or NULL */
};

enum row_state { ROW_NONE, ROW_INSERT, ROW_UPDATE, ROW_DELETE, ROW_REPLACE, ROW_NOTHING };

/* What a set does to one key. Rows of tables without a key are only inserted, and not looked up. */
struct row {
    struct row *next;
    struct step *step;
    uint64_t hash;
    enum row_state state;
    bool partial;
    const struct pgo_value *key;
    const struct pgo_value *values;
};

/* Hashes of the rows that a step of a table without a key makes. Equal hashes count as equal rows:
 * at worst a step too many. */
struct images {
    uint64_t *slots; /* 0: empty */
    size_t n, cap;
};

/* A set, then changes by themselves; of a table without a key both may be there: no change hits a
 * row that its own step makes, so their order doesn't matter. */
struct step {
    struct step *next;
    struct row *rows, *last_row;
    struct change *singles, *last_single;
    size_t nrows;
    struct images made;
};

/* A set of columns that updates carry, and the statements for it. Lives as long as the batch. */
struct mask {
    bool *present;
    char *update, *rekey, *update_row; /* NULL: not made yet, or nothing to set */
    char *update_rows;                 /* NULL: not made yet, or can't be said so */
    bool made_update, made_update_row, made_update_rows;
    int stale;   /* a column of the map of which only some needs are present, or -1 ... */
    int missing; /* ... and the source column that it lacks */
};

/* A table of the map, from its first change on. */
struct table {
    const struct map_table *mt;
    bool in_group;
    struct table *next; /* in the group */
    struct step *steps, *last;
    const struct step *at; /* while the group is executed */
    bool *key_columns;     /* by source column */
    char *insert, *delete, *delete_row, *delete_rows;
    int64_t single_us; /* what a change by itself costs, lately */
    struct mask **masks;
    size_t nmasks, capmasks;
    bool whole; /* to be compared as a whole after the commit */
};

struct slot {
    uint64_t epoch; /* the group that it belongs to; any other means empty */
    struct row *row;
};

struct key_entry {
    struct key_entry *next;
    const struct map_table *mt;
    const char **values;
    int *lens;
};

/* Keys of what was flushed and isn't committed yet. */
struct keys {
    struct arena *arena;
    struct key_entry *first;
    struct table **whole;
    size_t nwhole, capwhole;
};

struct batch {
    const struct map *map;
    struct arena *arena;
    struct table **tables; /* by map_table.index; NULL until the first change */
    struct table *first_table, *last_table;
    struct change *first, *last;
    size_t nchanges;
    bool odd;         /* states that can't follow each other: one by one will tell */
    bool open, saved; /* the target's transaction; its savepoint */
    int64_t redone;
    bool told_delete; /* that a TRUNCATE became a DELETE: once */

    struct slot *slots;
    size_t nslots, used;
    uint64_t epoch;

    struct strbuf *arrays; /* one for each parameter */
    struct pg_param *params;
    size_t nparams, capparams;
    const char **values;
    int *lens;
    size_t capvalues;
    struct keys keys;
};

/* batch.c */
struct table *batch_table(struct batch *b, const struct map_table *mt);
void batch_reset_group(struct batch *b);

/* batch_row.c: a change out of a message; states of keys */
bool change_fill(struct batch *b, struct change *c, const struct relation *r,
                 const struct pgo_message *m, struct error *err) WARN_UNUSED;
void row_apply(struct batch *b, struct table *t, struct change *c);
void rows_forget(struct batch *b);
uint64_t batch_mix(uint64_t h, uint64_t v); /* a step of a hash */

/* batch_sql.c: statements and their parameters */
struct mask *table_mask(struct batch *b, struct table *t, const struct pgo_value *row,
                        bool partial);
const char *table_insert(struct table *t);
const char *table_delete(struct table *t);
const char *table_delete_row(struct table *t);
const char *mask_update(struct table *t, struct mask *m);     /* NULL: nothing to set */
const char *mask_update_row(struct table *t, struct mask *m); /* NULL: nothing to set */
const char *mask_rekey(struct table *t, struct mask *m);
void table_free(struct table *t);
void bind_none(struct batch *b);
void bind_rows(struct batch *b, const struct map_table *mt, const bool *present,
               const struct pgo_value *const *rows, size_t n);
bool batch_execute(struct batch *b, struct pg *pg, const char *sql, int64_t *affected,
                   struct error *err) WARN_UNUSED;

const char *table_delete_rows(struct table *t);
const char *mask_update_rows(struct table *t, struct mask *m); /* NULL: can't be said so */

/* batch_single.c: changes of a step that are no set */
bool singles_run(struct batch *b, struct pg *pg, struct table *t, struct error *err) WARN_UNUSED;
bool images_have(const struct step *s, const struct map_table *mt, const struct pgo_value *row);
void images_add(struct batch *b, struct step *s, const struct map_table *mt,
                const struct pgo_value *row);

/* batch_exec.c */
bool sets_run(struct batch *b, struct pg *pg, struct error *err) WARN_UNUSED;

/* batch_redo.c */
/* False with ERR_CONFLICT also when it found another number of rows than one. */
bool change_run(struct batch *b, struct pg *pg, const struct change *c,
                struct error *err) WARN_UNUSED;
bool redo_run(struct batch *b, struct pg *pg, struct error *err) WARN_UNUSED;
bool conflict_unresolved(const struct map_table *mt, lsn_t commit_lsn, struct error *err);
bool conflict_truncate(const struct map_table *mt, lsn_t commit_lsn, struct error *err);
void conflict_hint(struct error *err);

/* batch_keys.c */
void keys_gather(struct batch *b);
void keys_hand_over(struct batch *b, struct touched *touched, struct touched *changed);
void keys_forget(struct batch *b);
void keys_whole(struct batch *b, struct table *t);

#endif
