/* sequence.h - carrying sequences over. Positions are compared by the sign of the increment. */
#ifndef PGCUTOVER_PG_SEQUENCE_H
#define PGCUTOVER_PG_SEQUENCE_H

#include "pg/catalog.h"

/* Before migrating: push every sequence of green ahead by gap (times the increment's sign), capped
 * at its limits (TRAPS 26). */
bool sequence_push(struct pg *green, const struct catalog *green_cat, int64_t gap,
                   struct error *err) WARN_UNUSED;

struct sequence_pair {
    Oid source, target;
};
/* At the fence: each target becomes the furthest one of itself and all its sources (it may stand in
 * several pairs, and so may a source); one that counts the other way is left alone. Reads the
 * source's fresh values. One statement on each side. *moved counts the targets that were set. */
bool sequence_carry(struct pg *source, struct pg *target, const struct sequence_pair *pairs,
                    size_t n, int *moved, struct error *err) WARN_UNUSED;

#endif
