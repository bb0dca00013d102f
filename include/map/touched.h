/*
 * touched.h - which rows changed since they were last compared. Thread-safe; replay adds after its
 * commit, the verifier takes. A key is the source key's column texts (source_key order). Bounded:
 * past max_keys the table overflows, which means "compare all of it".
 */
#ifndef PGCUTOVER_MAP_TOUCHED_H
#define PGCUTOVER_MAP_TOUCHED_H

#include "base/lsn.h"
#include "map/map.h"

struct touched;

struct touched *touched_new(size_t ntables, size_t max_keys);
void touched_free(struct touched *t);

/* Adding a key that is there already is cheap and changes nothing. values: source_key texts, never
 * NULL. */
void touched_add(struct touched *t, size_t table, size_t nkey, const char *const *values,
                 const int *lens);
/* A change of a table without a key, or a TRUNCATE: compare the table as a whole. */
void touched_add_whole(struct touched *t, size_t table);
bool touched_has(struct touched *t, size_t table, size_t nkey, const char *const *values,
                 const int *lens);

/* Up to max keys of a table, moved out of the set; each keys[i] has nkey texts. Free with
 * touched_batch_release. */
struct touched_batch {
    size_t n, nkey;
    char **values; /* n * nkey NUL-terminated texts, row by row */
    int *lens;
};
void touched_take(struct touched *t, size_t table, size_t max, struct touched_batch *out);
/* A copy, leaving them in (for the proof, which excludes them). */
void touched_copy(struct touched *t, size_t table, struct touched_batch *out);
void touched_put_back(struct touched *t, size_t table, const struct touched_batch *b, size_t i);
void touched_batch_release(struct touched_batch *b);
bool touched_whole(struct touched *t, size_t table, bool clear);
size_t touched_count(struct touched *t); /* keys waiting in all tables */
size_t touched_count_table(struct touched *t, size_t table);
size_t touched_whole_count(struct touched *t); /* tables to be compared as a whole */
void touched_clear(struct touched *t);
/* Everything from one set to another, for the same tables; from is empty then. */
void touched_move(struct touched *from, struct touched *to);

#endif
