/* constraints.h - what deriving and running the checks share. */
#ifndef PGCUTOVER_VERIFY_CONSTRAINTS_H
#define PGCUTOVER_VERIFY_CONSTRAINTS_H

#include "verify/verify.h"

#define CONSTRAINT_SHOWN 3

/* "ONLY t AS alias"; the texts of its columns; the condition that row c lacks its parent. */
void constraint_add_from(struct strbuf *sb, const struct cat_table *t, const char *alias);
void constraint_add_shown(struct strbuf *sb, const struct cat_table *t, const int *columns,
                          size_t n, const char *alias);
void constraint_add_orphaned(struct strbuf *sb, const struct constraint_check *check);

char *orphans_sql(const struct constraint_check *check);

/* Operators and indexes from the server, once. */
bool constraint_prepare(struct constraint_check *c, struct pg *green,
                        struct error *err) WARN_UNUSED;
/* What the check's statement found, as text; and the error that says it. */
char *constraint_found(const struct constraint_check *c, const PGresult *res);
bool constraint_refuse(const struct constraint_check *c, const char *found, struct error *err);

#endif
