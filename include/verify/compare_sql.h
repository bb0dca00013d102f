/*
 * compare_sql.h - the statements of verification. Each comes from the map alone and can be read
 * without a server.
 *
 * Source rows are bound as text[] arrays, one per source column, so that green takes them through
 * the same expressions that replay uses (map/project.h). Checks are numbered: first the map's
 * columns, then its rest columns. Both values of a check are compared as text under the C
 * collation: a nondeterministic collation would call 'A' and 'a' equal.
 */
#ifndef PGCUTOVER_VERIFY_COMPARE_SQL_H
#define PGCUTOVER_VERIFY_COMPARE_SQL_H

#include "map/map.h"

size_t compare_checks(const struct map_table *mt);
const struct cat_column *compare_check_column(const struct map_table *mt, size_t check);

/* "ONLY name AS alias", or without ONLY for partitioned tables. */
void compare_sql_target(struct strbuf *sb, const struct map_table *mt, const char *alias);
/* The relation in which a key of this source table is looked up: the partition root, as a row may
 * have moved. */
void compare_sql_source(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                        const char *alias);

/* o, missing (t/f), differing checks as a bool[]; only for rows that aren't equal. All source
 * columns are bound. */
void compare_sql_differs(struct strbuf *sb, const struct map *map, const struct map_table *mt);
/* o, then expected and found text of each check for which want is set. */
void compare_sql_values(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                        const bool *want);
/* Source key columns are bound, in the order of source_columns (as project_rows wants them): the
 * FROM item e with the target's key; and o, tableoid, ctid of the target rows that have such a key.
 */
void compare_sql_keys(struct strbuf *sb, const struct map_table *mt);
void compare_sql_present(struct strbuf *sb, const struct map_table *mt);

/* The source columns of a leaf as they are read; with blocks, rows of heap pages [from, to), to <
 * 0: to the end. */
void compare_sql_scan(struct strbuf *sb, const struct map_table *mt, int64_t from, int64_t to);
/* Source key columns are bound, in the order of source_key: o, then the source columns. */
void compare_sql_fetch(struct strbuf *sb, const struct map *map, const struct map_table *mt);

/* The target's key columns as text; only when they are plain copies can they be looked up on the
 * source. */
bool compare_key_is_plain(const struct map_table *mt);
void compare_sql_target_keys(struct strbuf *sb, const struct map_table *mt);
/* Target key texts are bound, in the order of key: o of those that the source doesn't have, then
 * the texts that they have there. */
void compare_sql_unknown(struct strbuf *sb, const struct map *map, const struct map_table *mt);

/* Tables without a key. A row is one text: an array of its columns' texts, which is injective. Two
 * 64-bit hashes of it are summed, so that the order doesn't count and the number of equal rows
 * does. */
enum multiset_want {
    MULTISET_SUMS,   /* count, sum of one hash, sum of the other */
    MULTISET_HASHES, /* o (source only), first hash, for each row */
    MULTISET_ROWS    /* target only, $1 bigint[]: text of rows with these hashes */
};
void multiset_sql_source(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                         enum multiset_want want);
void multiset_sql_target(struct strbuf *sb, const struct map_table *mt, enum multiset_want want);
/* The sums of a source table that is identical to its target, by its own server. */
void multiset_sql_own(struct strbuf *sb, const struct map_table *mt);

/* Rule guesses: the typed source rows as r beside their target rows t; expr is SQL over r's
 * columns. rows, and in how many of them expr gives what column has. */
void compare_sql_guess(struct strbuf *sb, const struct map_table *mt,
                       const struct cat_column *column, const char *expr);

#endif
