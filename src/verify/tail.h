/* tail.h - what the files behind struct verifier share. */
#ifndef PGCUTOVER_VERIFY_TAIL_H
#define PGCUTOVER_VERIFY_TAIL_H

#include "private.h"

/* How often a key differed in a row: bounded, by a 64-bit hash of table and key. Zeroed is empty.
 */
struct misses {
    struct miss {
        uint64_t hash; /* 0: free */
        uint64_t row;  /* the source's row when it last differed */
        int64_t at_us; /* ... and when that was counted */
        int count;
    } * items;
    size_t n, cap;
    int64_t suspicious;
};
/* row: a hash of the source's row. A row that blue changes all the time differs every time it is
 * looked at, and rightly: only one that stayed as it is for a while, and differs, counts. */
void misses_add(struct misses *m, size_t table, size_t nkey, char *const *values, const int *lens,
                uint64_t row);
uint64_t misses_hash(uint64_t before, const void *data, size_t len);
void misses_forget(struct misses *m, size_t table, size_t nkey, char *const *values,
                   const int *lens);
void misses_release(struct misses *m);

struct verifier {
    struct verify_options o; /* without snapshots */
    struct touched *touched;
    struct vsession s;
    struct vgroup *groups;
    size_t ngroups;
    int *group_of;
    struct misses misses;
    size_t next_table;
    int64_t compared;
    double us_per_key, us_per_row; /* measured */
};

/* Which of these keys' rows aren't equal; rows: a hash of what the source has. examples: text for
 * up to *left of them, or NULL. */
bool tail_compare_keys(struct verifier *v, const struct map_table *mt,
                       const struct touched_batch *keys, bool *differs, uint64_t *rows,
                       struct strbuf *examples, int *left, struct error *err) WARN_UNUSED;

/* Tables to be compared as a whole. While replay runs: those that can be, become keys that are
 * compared again. */
bool tail_whole_pass(struct verifier *v, struct error *err) WARN_UNUSED;
/* On frozen sides. notes: tables for which there was no time. */
bool tail_whole_final(struct verifier *v, int64_t deadline_us, int64_t *compared,
                      int64_t *differing, struct strbuf *text, struct strbuf *notes,
                      struct error *err) WARN_UNUSED;
double tail_whole_estimate_us(struct verifier *v);

#endif
