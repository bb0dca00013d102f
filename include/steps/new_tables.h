/*
 * new_tables.h - tables that only green has. What the migrations filled from blue's tables would
 * miss everything that blue writes afterwards (a split, a copy, a rebuild under another name): such
 * a table is refused unless the playbook accepts it by name. Rows that the migrations' own INSERT
 * ... VALUES put there need nothing.
 */
#ifndef PGCUTOVER_STEPS_NEW_TABLES_H
#define PGCUTOVER_STEPS_NEW_TABLES_H

#include "steps/cutover.h"

/* ERR_NOGO naming the first such table and the way on. Warns of triggers that only green has. */
bool new_tables_are_sound(struct cutover *c, struct error *err) WARN_UNUSED;

/* Is it a table in which a migration tool keeps what it ran? Such a one differs on green by its
 * nature. */
bool is_history_table(const struct cutover *c, const char *schema, const char *name);

#endif
