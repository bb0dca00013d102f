/* human.h - numbers for people, and the nearest known name for a mistyped one. */
#ifndef PGCUTOVER_BASE_HUMAN_H
#define PGCUTOVER_BASE_HUMAN_H

#include <stddef.h>
#include <stdint.h>

#define HUMAN_SIZE 32
const char *human_bytes(char buf[HUMAN_SIZE], int64_t bytes); /* "1.4 GB" (powers of 1000) */
const char *human_count(char buf[HUMAN_SIZE], int64_t n);     /* "1,234,567" */

/* The closest of names (NULL-terminated) by edit distance, or NULL when none is near (over a
 * third). */
const char *human_nearest(const char *word, const char *const *names);

#endif
