/*
 * secret.h - a value that the logger can't print: no field is a string, and the only way to the
 * text is secret_reveal(), which grep finds. secret_mask() hides passwords in a connection string
 * for display.
 */
#ifndef PGCUTOVER_BASE_SECRET_H
#define PGCUTOVER_BASE_SECRET_H

struct secret;

struct secret *secret_new(const char *text);
void secret_free(struct secret *s); /* wipes; NULL is allowed */
const char *secret_reveal(const struct secret *s);

/* A copy of a conninfo (keyword=value or URI) with password values replaced by "***"; caller frees.
 */
char *secret_mask_conninfo(const char *conninfo);

#endif
