/*
 * playbook_internal.h - what the files of src/playbook/ share, and what their tests reach for.
 * Other modules include playbook.h.
 *
 * A load goes through these hands, in this order:
 *     parse.c      text to sections and raw entries, names checked against the key table (keys.c)
 *     set.c        --set, laid over them
 *     resolve.c    ${NAME}, @file, types, ranges, what is required
 *     problem.c    collects what is wrong; the first one becomes the error
 */
#ifndef PGCUTOVER_PLAYBOOK_PLAYBOOK_INTERNAL_H
#define PGCUTOVER_PLAYBOOK_PLAYBOOK_INTERNAL_H

#include "base/arena.h"
#include "playbook/playbook.h"

#define PLAYBOOK_VALUE_MAX ((size_t) 1 << 20) /* a value, raw or resolved */
#define PLAYBOOK_FILE_MAX ((size_t) 16 << 20)

/* ---- keys.c: the table ---- */

enum playbook_type {
    PLAYBOOK_STR,
    PLAYBOOK_INT,
    PLAYBOOK_BOOL,
    PLAYBOOK_DURATION, /* microseconds */
    PLAYBOOK_BYTES,
    PLAYBOOK_ENUM,
    PLAYBOOK_LIST,
    PLAYBOOK_PATH, /* absolute once resolved */
    PLAYBOOK_CONNINFO,
    PLAYBOOK_COMMAND,
    PLAYBOOK_EXPRESSION,
    PLAYBOOK_NAME,
    PLAYBOOK_WINDOW
};

enum {
    PLAYBOOK_REQUIRED = 1, /* of a section that is there; of blue, green and cutover always */
    PLAYBOOK_SECRET = 2,   /* the value never appears in an error or the reference */
    PLAYBOOK_PREFIX = 4    /* key ends with a '.', behind which a tail of the user's stands */
};

struct playbook_key {
    const char *kind;
    const char *key;
    enum playbook_type type;
    unsigned flags;
    const char *def;    /* as it would be written, or NULL */
    const char *values; /* "full|fail": the words of an enum, or of a list */
    const char *later;  /* words of the design that this version hasn't got */
    const char *min;    /* as they would be written, or NULL */
    const char *max;
    const char *tail; /* of a prefix: "COLUMN"; "N" is a number from 2 */
    const char *help;
};

enum playbook_naming {
    PLAYBOOK_SINGLE,      /* [blue] */
    PLAYBOOK_NAMED,       /* [traffic NAME] */
    PLAYBOOK_BEFORE,      /* [gate before-STEP] */
    PLAYBOOK_BEFORE_AFTER /* [hook before-STEP], [hook after-STEP] */
};

struct playbook_kind {
    const char *name;
    enum playbook_naming naming;
    bool required;
    const char *help;
};

extern const struct playbook_kind playbook_kinds[]; /* ends with a NULL name */
extern const struct playbook_key playbook_keys[];   /* grouped by kind; ends with a NULL kind */
extern const char *const playbook_steps[];          /* ends with NULL */

const struct playbook_kind *playbook_find_kind(const char *name); /* or NULL */
/* Also through a prefix ("up.total" finds "up."); NULL when the kind has no such key. */
const struct playbook_key *playbook_find_key(const char *kind, const char *key);
bool playbook_is_prefix(const struct playbook_key *key);
const char *playbook_nearest_kind(const char *name); /* or NULL */
bool playbook_nearest_key(const char *kind, const char *key, struct strbuf *out);
/* May a section of this kind be called that? If not, why says so ("has no such step; ..."). */
bool playbook_name_ok(const struct playbook_kind *kind, const char *name, struct strbuf *why);

/* ---- value.c: text to values; pure ---- */

/* Checks text against type, range and words. num gets the number of an int, bool (0, 1), duration
 * (us) or size. On false, why gets "is not a duration, such as 2s": never the text itself. */
bool playbook_value_parse(const struct playbook_key *key, const char *text, int64_t *num,
                          struct strbuf *why) WARN_UNUSED;
const char *playbook_type_name(enum playbook_type type);
/* A good value, for messages; never one that holds a secret. */
const char *playbook_example(const struct playbook_key *key);
bool playbook_space(char c); /* what libinih strips: isspace() of the C locale */
/* The offset of the first byte that isn't UTF-8, or len. */
size_t playbook_utf8(const char *text, size_t len);
/* The next item of a list, trimmed; *at goes behind it, to NULL after the last. Returns its length.
 */
size_t playbook_list_item(const char **at, const char **item);

/* ---- the loaded playbook ---- */

enum playbook_origin { PLAYBOOK_FROM_FILE, PLAYBOOK_FROM_OVERLAY, PLAYBOOK_FROM_SET };

struct playbook_entry {
    const struct playbook_key *spec;
    char *key; /* in full: "up.total" */
    struct strbuf raw;
    enum playbook_origin origin;
    int line; /* of the --set: its number */
    const char
        *text; /* resolved; NULL until then, and when taken back by an overlay's empty value */
    int64_t num;
    const char *const *list;
};

struct playbook_section {
    const struct playbook_kind *kind;
    char *name;
    enum playbook_origin origin; /* where it was seen last */
    int line;
    bool given;
    bool mistyped; /* a key of it was refused: that one may be what would be called missing */
    struct playbook_entry *entries;
    size_t nentries, capentries;
};

struct playbook_problem {
    enum playbook_origin origin;
    int line;
    char *text;
    char *hint; /* or NULL */
};

typedef bool playbook_read_fn(const char *path, struct strbuf *out, struct error *err);

struct playbook {
    struct arena *arena;
    char *path;
    char *dir;
    const char *labels[2]; /* how errors call the file and the overlay */
    int last_line;         /* of the file, where what it lacks would go */
    playbook_read_fn *read;
    struct playbook_section **sections;
    size_t nsections, capsections;
    struct playbook_section *defaults; /* one a kind, in the table's order */
    struct playbook_problem *problems;
    size_t nproblems, capproblems;
};

struct playbook_text {
    const char *label;
    const char *data; /* NULL: none */
    size_t len;
};

struct playbook_input {
    const char *path; /* absolute */
    const char *dir;  /* absolute; where relative paths start unless base_dir says otherwise */
    struct playbook_text file;
    struct playbook_text overlay;
    const char *const *sets;
    playbook_read_fn *read; /* for @file; NULL: from the disk */
};

/* playbook_load without the disk: for tests and the fuzzer. */
bool playbook_load_texts(struct playbook **out, const struct playbook_input *in,
                         struct error *err) WARN_UNUSED;

/* NULL when neither the file, the overlay nor --set has it. */
struct playbook_section *playbook_find_section(const struct playbook *pb, const char *kind,
                                               const char *name);
struct playbook_section *playbook_add_section(struct playbook *pb, const struct playbook_kind *kind,
                                              const char *name);
struct playbook_entry *playbook_find_entry(const struct playbook_section *s, const char *key);

/* ---- parse.c ---- */

/* False when the bytes are no text at all: nothing else is worth saying then. */
bool playbook_parse(struct playbook *pb, enum playbook_origin origin,
                    const struct playbook_text *in);
/* The entry for a key of s, made or, from a later origin, emptied; NULL after a problem was added
 * (unknown key, or a second one from the same origin). */
struct playbook_entry *playbook_enter(struct playbook *pb, struct playbook_section *s,
                                      const char *key, enum playbook_origin origin, int line);
/* Trims, and makes one blank of several outside quotes. Returns an arena copy. */
char *playbook_clean_name(struct playbook *pb, const char *name, size_t len);

/* ---- set.c ---- */

void playbook_apply_sets(struct playbook *pb, const char *const *sets);

/* ---- resolve.c ---- */

void playbook_resolve(struct playbook *pb);
/* Puts the variables in: "${A}/x" to "/home/x", "$${" to "${". False with why: "${A} is not set
 * ...". */
bool playbook_expand(const char *raw, struct strbuf *out, struct strbuf *why) WARN_UNUSED;

/* ---- problem.c ---- */

/* text goes behind the place, "shop.ini:12: " or "--set clone.jobs: " (s and e, when the place is a
 * --set). */
void playbook_problem(struct playbook *pb, enum playbook_origin origin, int line, const char *fmt,
                      ...) PRINTF(4, 5);
void playbook_problem_at(struct playbook *pb, const struct playbook_section *s,
                         const struct playbook_entry *e, const char *fmt, ...) PRINTF(4, 5);
/* A hint for the problem added last. */
void playbook_problem_hint(struct playbook *pb, const char *fmt, ...) PRINTF(2, 3);
/* False when there is one: the first by place goes to err, with how many more there are. */
bool playbook_problems_none(struct playbook *pb, struct error *err) WARN_UNUSED;
/* "[map public.orders]", "[blue]" */
void playbook_header(struct strbuf *out, const struct playbook_kind *kind, const char *name);

#endif
