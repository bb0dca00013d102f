/*
 * journal.h - the run's memory: journal.jsonl, append-only, one JSON object a line with a CRC-32C,
 * fsynced before the act that it announces and after it (DESIGN 8: intent, act, outcome). A torn
 * last line is cut off on open; damage anywhere else is an error. One writer: the process that
 * holds the run directory's lock.
 *
 * Records carry "n" (1, 2, ...), "at" (wall time) and "type"; the rest is the caller's. Facts (type
 * "fact") are remembered by key, the last one counts.
 */
#ifndef PGCUTOVER_RUN_JOURNAL_H
#define PGCUTOVER_RUN_JOURNAL_H

#include "base/error.h"

#include <jansson.h>
#include <stddef.h>

struct journal;

/* Opens or creates <dir>/journal.jsonl for writing. */
bool journal_open(struct journal **out, const char *dir, struct error *err) WARN_UNUSED;
/* Reads it without writing (status, report); a torn tail is passed over. */
bool journal_read(struct journal **out, const char *dir, struct error *err) WARN_UNUSED;
void journal_close(struct journal *j);

/* Appends and fsyncs. Takes rec over (also on failure). */
bool journal_add(struct journal *j, const char *type, json_t *rec, struct error *err) WARN_UNUSED;
bool journal_fact(struct journal *j, const char *key, const char *value,
                  struct error *err) WARN_UNUSED;
const char *journal_get_fact(const struct journal *j, const char *key); /* NULL when unknown */

/* In the pause records are written without fsync (each costs milliseconds that clients wait): there
 * the arbiter row on the serving side is what counts after a crash. Turning it off syncs what was
 * written. */
bool journal_relax(struct journal *j, bool on, struct error *err) WARN_UNUSED;

/* For readers on another thread than the writer's: around everything that they look at. */
void journal_lock(struct journal *j);
void journal_unlock(struct journal *j);

size_t journal_count(const struct journal *j);
const json_t *journal_at(const struct journal *j, size_t i);

#endif
