/* constraints.h - what deriving and running the checks share. */
#ifndef PGCUTOVER_VERIFY_CONSTRAINTS_H
#define PGCUTOVER_VERIFY_CONSTRAINTS_H

#include "verify/verify.h"

#define CONSTRAINT_SHOWN 3

/* Rows of child without a parent. equals: a row for each column with its operator, or NULL for "=".
 */
char *orphans_sql(const struct cat_table *child, const struct cat_table *parent,
                  const struct cat_foreign_key *fk, const PGresult *equals);

#endif
