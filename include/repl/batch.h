/*
 * batch.h - changes of whole source transactions, gathered, made few, and executed on the target.
 *
 *     batch_add() ...                 gathers; the message lives in batch_arena()
 *     batch_flush()                   executes the group, and begins the target's transaction when
 * needed the caller writes its progress and commits batch_committed()               or
 * batch_rolled_back()
 *
 * The rules (DESIGN 6). Within a group each table has a list of steps. A set holds at most one
 * state per key and becomes three statements at most: deletes, updates by the set of columns that
 * they carry, inserts. What can't be part of a set (a key that changes, an update or delete in a
 * table without a key) is a step of its own and closes the set before it. Steps of different tables
 * don't wait for each other. TRUNCATE ends the group.
 *
 * Each statement must affect as many rows as it was given. Whatever goes wrong in a group takes it
 * back to its savepoint, and its changes are done again one by one in the source's order,
 * constraints deferred. The first that fails then is the conflict: ERR_CONFLICT. Other failures
 * (connection, disk, deadlock) keep their own code; see batch_trouble.
 */
#ifndef PGCUTOVER_REPL_BATCH_H
#define PGCUTOVER_REPL_BATCH_H

#include "map/touched.h"
#include "repl/relation.h"

struct batch;

struct batch *batch_new(const struct map *map, size_t keep_bytes);
void batch_free(struct batch *b);

/* For messages and their tuples, until the group is flushed. */
struct arena *batch_arena(struct batch *b);
/* An insert, update or delete of a RELATION_TABLE. ERR_CONFLICT when the table is unresolved. */
bool batch_add(struct batch *b, const struct relation *r, const struct pgo_message *m,
               lsn_t commit_lsn, struct error *err) WARN_UNUSED;
size_t batch_changes(const struct batch *b); /* in the group */
size_t batch_bytes(const struct batch *b);

/* Begins the target's transaction unless it is open. */
bool batch_begin(struct batch *b, struct pg *pg, struct error *err) WARN_UNUSED;
bool batch_flush(struct batch *b, struct pg *pg, struct error *err) WARN_UNUSED;
/* TRUNCATE of tables, in one statement; the group must have been flushed. */
bool batch_truncate(struct batch *b, struct pg *pg, const struct map_table *const *tables, size_t n,
                    uint8_t options, lsn_t commit_lsn, struct error *err) WARN_UNUSED;

/* Hands over the keys of the group without executing it. */
void batch_pass(struct batch *b, struct touched *touched);

/* After the commit: hands over the keys, old and new, of all that was flushed, to both sets (either
 * may be NULL). */
void batch_committed(struct batch *b, struct touched *touched, struct touched *changed);
/* After a rollback or a lost connection: forgets everything, gathered or flushed. */
void batch_rolled_back(struct batch *b);
int64_t batch_redone(const struct batch *b); /* groups done again one by one, since batch_new */

enum batch_trouble {
    BATCH_LOST,      /* the connection: open another one, go on from the progress row */
    BATCH_TRANSIENT, /* deadlock, serialization, cancelled: roll back, go on from the progress row
                      */
    BATCH_SERVER,    /* disk, memory, a bug; a conflict that has been told: give up */
    BATCH_DATA       /* the statement and the data: a conflict, when it was one change */
};
enum batch_trouble batch_trouble(const struct pg *pg, const struct error *err);

/* The steps as text, for tests: a line for each set or single change. */
void batch_describe(struct strbuf *out, const struct batch *b);

#endif
