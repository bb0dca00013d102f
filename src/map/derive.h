/* derive.h - what the files that derive the map share and nobody else sees. */
#ifndef PGCUTOVER_MAP_DERIVE_H
#define PGCUTOVER_MAP_DERIVE_H

#include "map/map.h"

/* Tables of a catalog in order of (schema, name). */
struct name_index {
    const struct cat_table **tables;
    size_t n;
};

/* How one source table was followed; beside map.tables while the map is derived. */
struct link {
    const struct cat_table *before; /* in green before the migrations; NULL: not there */
    const struct cat_table *after;  /* the table whose columns correspond to before's */
    bool by_name;                   /* columns by their names: after was made anew */
    bool skip_rule;
    const struct map_rule **rules; /* that match, the more particular ones later */
    size_t nrules, caprules;
    int *image; /* per source column: index into the target's columns, or -1 */
    struct strbuf reason, unresolved;
};

/* A value that belongs to an oid, for looking up: types' names, defaults of domains, equality
 * operators. */
struct oid_text {
    Oid oid;
    char *text;
};
struct oid_texts {
    struct oid_text *items;
    size_t n, cap;
};

struct index_info {
    Oid table;
    bool unique; /* and valid, whole and of plain columns */
    int *columns;
    size_t n;
};

struct derive {
    struct map *map;
    const struct catalog *blue, *before, *green;
    struct name_index before_names, green_names;
    const struct map_rule *rules;
    size_t nrules;
    bool **used;                    /* per rule and up: stands for a column of some table */
    bool *matched;                  /* per rule: speaks of a table that is mapped */
    const struct cat_table **tried; /* per rule: a target in which its columns were looked for */
    struct pg *pg;
    struct link *links;
    struct oid_texts types; /* on green, by oid as before the migrations */
    struct oid_texts enums; /* and arrays of them */
    struct oid_texts domain_defaults;
    struct oid_texts config_tables; /* of extensions: pg_dump copies the rows of these alone */
    struct oid_texts equals;
    struct index_info *indexes; /* by table */
    size_t nindexes, capindexes;
};

/* rules.c */
bool rule_is_wild(const struct map_rule *rule); /* "*.orders" */
bool rule_matches(const struct map_rule *rule, const struct catalog *blue,
                  const struct cat_table *leaf);
/* Every rule must match a table of blue. */
bool rules_check_tables(const struct catalog *blue, const struct map_rule *rules, size_t nrules,
                        struct error *err) WARN_UNUSED;
void rules_find(struct derive *d, struct link *link, const struct cat_table *leaf);
/* What the most particular rule says, or NULL; *from is that rule. */
const char *rules_table(const struct link *link, const struct map_rule **from);
bool rules_find_target(struct derive *d, const struct map_rule *rule, const char *text,
                       const struct cat_table *source, const struct cat_table **out,
                       struct error *err) WARN_UNUSED;
const char *const *rules_key(const struct link *link, const struct map_rule **from);
const char *rules_up(struct derive *d, const struct link *link, const char *column,
                     const struct map_rule **from);
bool rules_check_columns(struct derive *d,
                         struct error *err) WARN_UNUSED; /* after all tables are done */
bool rule_error(struct error *err, const struct map_rule *rule, const char *fmt, ...) PRINTF(3, 4);
/* "did you mean" over the columns of a table */
void rule_hint_column(struct error *err, const struct cat_table *t, const char *word);

/* targets.c */
void name_index_build(struct name_index *index, const struct catalog *cat);
const struct cat_table *name_index_find(const struct name_index *index, const char *schema,
                                        const char *name);
const struct cat_table *root_of(const struct catalog *cat, const struct cat_table *t);
bool derive_target(struct derive *d, struct map_table *mt, struct link *link,
                   struct error *err) WARN_UNUSED;
/* Where a table of blue (a partitioned one, too) is on green now; NULL when it is gone. */
const struct cat_table *green_of(const struct derive *d, const struct cat_table *blue,
                                 const struct cat_table **before);
void derive_sequences(struct derive *d);
void derive_new_tables(struct derive *d);
void derive_cascades(struct derive *d);

/* columns.c */
bool derive_columns(struct derive *d, struct map_table *mt, struct link *link,
                    struct error *err) WARN_UNUSED;
void derive_summary(struct derive *d, struct map_table *mt, struct link *link);

/* keys.c */
bool derive_key(struct derive *d, struct map_table *mt, struct link *link,
                struct error *err) WARN_UNUSED;

/* server.c: what only the server knows. All of it happens in a transaction that is rolled back. */
bool server_read_types(struct derive *d, struct error *err) WARN_UNUSED;
bool server_read_operators(struct derive *d, struct error *err) WARN_UNUSED;
bool server_read_indexes(struct derive *d, struct error *err) WARN_UNUSED;
/* The usable btree and hash indexes of a target. */
const struct index_info *server_indexes_of(const struct derive *d, Oid table, size_t *n);
const char *oid_texts_find(const struct oid_texts *texts, Oid oid);

/* check.c: statements tried, in the same transaction. */
bool check_defaults(struct derive *d, struct map_table *mt, struct error *err) WARN_UNUSED;
bool check_needs(struct derive *d, struct map_table *mt, struct link *link,
                 struct error *err) WARN_UNUSED;
bool check_types(struct derive *d, struct map_table *mt, struct link *link,
                 struct error *err) WARN_UNUSED;
bool check_statements(struct derive *d, struct map_table *mt, struct link *link,
                      struct error *err) WARN_UNUSED;

/* A line each. */
void say_reason(struct link *link, const char *fmt, ...) PRINTF(2, 3);
void say_unresolved(struct link *link, const char *fmt, ...) PRINTF(2, 3);

#endif
