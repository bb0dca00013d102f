/*
 * catalog.h - what a database holds, read in a few set-based queries (2,000 tables in well under a
 * second). System schemas, temporary objects and our own schema "pgcutover" are left out. All
 * memory belongs to the catalog. sql_name fields come quoted from the server (quote_ident): ready
 * for generated SQL.
 */
#ifndef PGCUTOVER_PG_CATALOG_H
#define PGCUTOVER_PG_CATALOG_H

#include "pg/conn.h"

struct cat_column {
    int attnum;
    char *name;
    char *sql_name;
    Oid type;
    char *type_sql;    /* format_type(atttypid, -1): no typmod, so that assignment checks lengths */
    char *type_full;   /* with typmod, for people */
    bool not_null;     /* also through a domain */
    char generated;    /* '\0' or 's' */
    char identity;     /* '\0', 'a' (always), 'd' (by default) */
    bool has_default;  /* a default expression (not generated, not identity) */
    char *default_sql; /* or NULL */
    char storage;      /* attstorage: 'p' plain ... */
    int typlen;        /* pg_type.typlen; -1 varlena */
    bool toastable;    /* storage != 'p' and typlen < 0 */
    bool text_cast_ok; /* value::text is the type's output function (no pg_cast entry to text) */
    bool has_equality; /* a default btree or hash operator class exists */
};

struct cat_table {
    Oid oid;
    Oid parent; /* direct parent (partition or inheritance), 0 if none */
    Oid root;   /* topmost partitioned table, own oid if no partition */
    char *schema;
    char *name;
    char *sql_name;    /* quoted schema.name */
    char *sql_schema;  /* quoted schema alone */
    bool in_extension; /* a member of an extension: pg_dump copies its rows only if it is a
                          configuration table */
    char relkind;      /* r, p, f */
    char persistence;  /* p, u */
    bool is_partition;
    char replident;             /* relreplident: d n f i */
    char *replident_index;      /* quoted schema.name of the index for 'i', else NULL */
    struct cat_column *columns; /* live ones by attnum */
    size_t ncolumns;
    int *pk; /* attnums of the primary key (also a deferrable one), npk 0 if none */
    size_t npk;
    bool pk_deferrable;
    int *key; /* attnums of the EFFECTIVE replica identity (immediate, valid, non-partial, not
               * null): primary key for 'd', the index for 'i'; nkey 0 for full, nothing or none */
    size_t nkey;
    char **unique_indexes; /* names of unique indexes usable as identity (sql_name), for advice;
                              NULL-terminated */
    double reltuples;
    int64_t bytes; /* pg_table_size */
};

struct cat_sequence {
    Oid oid;
    char *schema;
    char *name;
    char *sql_name;
    int64_t increment;
    int64_t start, min, max;
    bool has_value; /* pg_sequence_last_value is not null: has been called */
    int64_t last_value;
};

/* A sequence that gives a column its values: an identity's or a serial's own, or one that the
 * column's default names. A nextval of a text, or inside a function, leaves no trace to read. */
struct cat_feed {
    Oid sequence, table;
    int attnum;
};

struct cat_foreign_key {
    Oid oid;
    char *name;
    Oid table, ref_table;
    int *columns, *ref_columns; /* attnums, ncolumns each */
    size_t ncolumns;
    char on_delete, on_update; /* a c n d r */
    bool validated;
    bool deferrable;
    bool inherited; /* a copy of a partitioned parent's constraint */
};

struct cat_unique { /* deferrable unique and primary key constraints, and exclusion constraints
                       deferrable */
    char *name;
    Oid table;
    int *columns;
    size_t ncolumns;
};

struct catalog {
    struct pg_identity identity;
    char encoding[32];    /* pg_encoding_to_char(encoding) */
    char fingerprint[40]; /* a hash over relations, columns, types, constraints, indexes, triggers,
                           * functions: changes with any DDL that matters to replay; independent of
                           * statistics, values, REINDEX, our own objects. Comparable on one server
                           * only (OIDs are in it) */
    struct cat_table *tables;
    size_t ntables, captables;
    struct cat_sequence *sequences;
    size_t nsequences, capsequences;
    struct cat_feed *feeds; /* by table, attnum, sequence */
    size_t nfeeds, capfeeds;
    struct cat_foreign_key *fkeys;
    size_t nfkeys, capfkeys;
    struct cat_unique *deferrable;
    size_t ndeferrable, capdeferrable;
    int64_t large_objects;
    int64_t matviews, foreign_tables;
};

/* In the open transaction, or in one of its own with a single snapshot. */
bool catalog_load(struct pg *pg, struct catalog *out, struct error *err) WARN_UNUSED;
/* Only catalog.fingerprint's value, quickly (the pause compares it under the locks). */
bool catalog_fingerprint(struct pg *pg, char out[40], struct error *err) WARN_UNUSED;
/* Only has_value and last_value of every sequence, matched by oid. One statement. */
bool catalog_refresh_sequences(struct pg *pg, struct catalog *cat, struct error *err) WARN_UNUSED;
void catalog_release(struct catalog *cat);

const struct cat_table *catalog_table(const struct catalog *cat, const char *schema,
                                      const char *name);
const struct cat_table *catalog_table_oid(const struct catalog *cat, Oid oid);
const struct cat_sequence *catalog_sequence(const struct catalog *cat, const char *schema,
                                            const char *name);
const struct cat_sequence *catalog_sequence_oid(const struct catalog *cat, Oid oid);
/* The sequences of one column, *n of them; NULL for none. */
const struct cat_feed *catalog_feeds(const struct catalog *cat, Oid table, int attnum, size_t *n);
const struct cat_column *cat_column(const struct cat_table *t, const char *name);
const struct cat_column *cat_column_num(const struct cat_table *t, int attnum);

/*
 * The picture of green right before its migrations, kept in green's own pgcutover.before_relation
 * and pgcutover.before_column (so that a lost host loses nothing): oid, schema, name, kind of
 * tables and sequences; attnum, name, type. catalog_load_before fills only these fields. Saving
 * again replaces.
 */
bool catalog_save_before(struct pg *green, const struct catalog *now,
                         struct error *err) WARN_UNUSED;
bool catalog_load_before(struct pg *green, struct catalog *out, bool *found,
                         struct error *err) WARN_UNUSED;

#endif
