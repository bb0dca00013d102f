/*
 * playbook.h - the INI file that describes one procedure for one pair of databases.
 *
 * Read with libinih (inline comments off, long values allowed). One table in src/playbook/keys.c
 * lists every section and key with type, default, range and help; parser, `check`, the README's
 * reference and the man page come from it. Order of calls: playbook_load, getters, playbook_free.
 * Values never change after load, so threads may read.
 *
 * ${NAME} takes an environment variable ($${ is a literal "${"), a missing one is an error; a value
 * that is
 * "@file" is read from that file (relative to the playbook; "@@" is a literal "@"). Errors are
 * ERR_PLAYBOOK with file:line and the nearest known name; all of a load are found, the first is the
 * message, the next few the detail.
 *
 * Relative paths, an overlay's too, start in the playbook's directory, or in cutover.base_dir. Path
 * values come out absolute. In an overlay or --set a key without a value goes back to its default;
 * in the playbook that is an error.
 */
#ifndef PGCUTOVER_PLAYBOOK_PLAYBOOK_H
#define PGCUTOVER_PLAYBOOK_PLAYBOOK_H

#include "base/strbuf.h"

#include <stdint.h>

struct playbook;
struct playbook_section; /* one [kind name] of the file, or the defaults of a kind that it lacks */

struct playbook_source {
    const char *path;    /* the playbook */
    const char *overlay; /* a second one laid over it, or NULL */
    const char *const
        *sets; /* "section.key=value" ("traffic edge.driver=..." for named ones), or NULL */
};

bool playbook_load(struct playbook **out, const struct playbook_source *src,
                   struct error *err) WARN_UNUSED;
void playbook_free(struct playbook *pb);

const char *playbook_path(const struct playbook *pb); /* absolute */
const char *playbook_dir(const struct playbook *pb);  /* where relative paths start */

/* The text as run, overlay and --set applied, ${NAME} and @file unresolved: what the run directory
 * keeps. */
void playbook_write(const struct playbook *pb, struct strbuf *out);

/* The single section of a kind ("cutover", "blue"): never NULL; all defaults when the file has
 * none. */
const struct playbook_section *playbook_section(const struct playbook *pb, const char *kind);
/* The named sections of a kind ("traffic", "map", "hook"), in file order. */
size_t playbook_count(const struct playbook *pb, const char *kind);
const struct playbook_section *playbook_at(const struct playbook *pb, const char *kind, size_t i);
const char *playbook_section_name(
    const struct playbook_section *s); /* "edge" of [traffic edge]; "" if none */
int playbook_section_line(const struct playbook_section *s);
bool playbook_section_given(
    const struct playbook_section *s); /* the file (or overlay, --set) has it */

/* Values, resolved and checked at load. Asking for a key that the table lacks, or for another type,
 * is a BUG (playbook_str gives the text of any). Strings live as long as the playbook; an unset one
 * without default is NULL, an unset number 0: ask playbook_given. */
const char *playbook_str(const struct playbook_section *s, const char *key);
int64_t playbook_int(const struct playbook_section *s, const char *key);
bool playbook_bool(const struct playbook_section *s, const char *key);
int64_t playbook_us(const struct playbook_section *s,
                    const char *key); /* durations: 500ms 2s 10m 2h 7d */
int64_t playbook_bytes(const struct playbook_section *s,
                       const char *key); /* sizes: 4096 64MB 200GB (1024s) */
bool playbook_given(const struct playbook_section *s, const char *key);
/* A comma-separated list, trimmed; NULL-terminated, lives as long as the playbook; NULL when unset.
 */
const char *const *playbook_list(const struct playbook_section *s, const char *key);

/* Keys with a variable tail: up.COLUMN, down.COLUMN (and admin.N). For i in 0..n-1 of prefix "up."
 * gives tail and value; false past the end. */
bool playbook_prefixed(const struct playbook_section *s, const char *prefix, size_t i,
                       const char **tail, const char **value);

/* The reference, from the key table. */
enum playbook_format { PLAYBOOK_TEXT, PLAYBOOK_MARKDOWN, PLAYBOOK_ROFF };
void playbook_reference(struct strbuf *out, enum playbook_format format);

#endif
