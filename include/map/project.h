/*
 * project.h - generated SQL that takes source rows, bound as text[] parameters, through the map.
 *
 * project_rows() emits a FROM item named e:
 *   (SELECT u.pgcutover_o AS o, (<expr of column 0>) AS v0, (<expr of column 3>) AS v3,
 * u.pgcutover_x2 AS raw2 ... FROM unnest($1::text[], $2::text[], ...) WITH ORDINALITY AS
 * u(pgcutover_x0, pgcutover_x1, ..., pgcutover_o), LATERAL (SELECT u.pgcutover_x0::<type> AS "id",
 * u.pgcutover_x1::<type> AS "total", ...) AS r) AS e r is the source row and nothing else, so that
 * rules may say bare column names, r.column, or r for the whole row. Values are cast to the
 * source's type without its typmod; assignment to the target column checks lengths (TRAPS 64).
 * Numbers in x, v and raw are indexes into source_columns (x, raw) and columns (v). With no column
 * present (a table without columns) there is nothing to unnest, no parameter, and e is exactly one
 * row.
 */
#ifndef PGCUTOVER_MAP_PROJECT_H
#define PGCUTOVER_MAP_PROJECT_H

#include "map/map.h"

/* present: per source column, which are bound (NULL: all). want: per map column, which to compute
 * (NULL: all whose needs are present). Parameters are numbered from first_param, one per present
 * source column in order. e.raw<i> additionally carries source column i's bound text for each i in
 * raw (may be NULL). */
void project_rows(struct strbuf *sb, const struct map_table *mt, const bool *present,
                  const bool *want, const bool *raw, int first_param);

/* True when every source column that column c reads is present; *some when at least one is (c has
 * needs). */
bool project_has_needs(const struct map_table *mt, size_t c, const bool *present, bool *some);

/* The canonical text of expression x, of the type of column col: the type's output function (TRAPS
 * 59: text, not hashes). NULL stays NULL. */
void project_text(struct strbuf *sb, const struct cat_column *col, const char *x);

/* The canonical text that column c of the target would have if x were assigned to it: x is what
 * project_rows computed ("e.v3"). Compare it with project_text(sb, columns[c].target,
 * "t.<column>"). A value too long for the column stays as it is, so that it differs instead of
 * being cut. Both carry COLLATE "C": equal means the same bytes. */
void project_target_text(struct strbuf *sb, const struct map_table *mt, size_t c, const char *x);

/* "t.k = e.v0 AND ...": rows of the target (alias t) that have the key which project_rows computed
 * (alias e; its want must include the key columns). Typed, so that an index on the key is used. */
void project_key_match(struct strbuf *sb, const struct map_table *mt, const char *t, const char *e);

/* Statements of replay. All bind arrays ($1...), all are exact: rows affected must equal rows
 * bound. insert  present = all published columns of an INSERT update  rows found by the key (its
 * source columns must be present), key columns not set delete  by the key: present = exactly the
 * source key columns, in the order of source_columns A column that reads no source column (a
 * constant by rule) is written by INSERT only. */
void project_insert(struct strbuf *sb, const struct map_table *mt, const bool *present);
/* false: nothing to set (every present column is a key, dropped or generated); nothing was emitted.
 * A column of which some needs are present and some aren't is left out: that would be a stale
 * value, so the caller asks project_has_needs for every column before, and gets the missing values
 * or stops. */
bool project_update(struct strbuf *sb, const struct map_table *mt, const bool *present);
void project_delete(struct strbuf *sb, const struct map_table *mt);
/* One row whose key changes: first nsource_key arrays hold the old key (one element each, in the
 * order of source_columns, as for project_delete), then present's. Partial needs as for
 * project_update. */
void project_rekey(struct strbuf *sb, const struct map_table *mt, const bool *present);
/* Tables without a key: hit one physical row of those equal to the old one in every mapped column.
 * Arrays of one element: all of the old row first, then (update) present's of the new row. false as
 * project_update. */
bool project_update_row(struct strbuf *sb, const struct map_table *mt, const bool *present);
void project_delete_row(struct strbuf *sb, const struct map_table *mt);
/* The same for arrays of any length, in one pass over the table: each old row hits another physical
 * row. No old row may equal a new one of the same statement. update: false when it can't be said so
 * (nothing to set, an identity ALWAYS among the columns); nothing was emitted. */
bool project_update_rows(struct strbuf *sb, const struct map_table *mt, const bool *present);
void project_delete_rows(struct strbuf *sb, const struct map_table *mt);

#endif
