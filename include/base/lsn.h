/* lsn.h - log sequence numbers, written as PostgreSQL writes pg_lsn: two hexadecimal halves,
 * "0/15D8". */
#ifndef PGCUTOVER_BASE_LSN_H
#define PGCUTOVER_BASE_LSN_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t lsn_t; /* as XLogRecPtr; 0 is invalid */

#define LSN_SIZE 24
const char *lsn_str(char buf[LSN_SIZE], lsn_t lsn); /* returns buf */
bool lsn_parse(const char *text, lsn_t *out);       /* the whole of text, or false */

#endif
