/*
 * map.h - how a row of one schema becomes a row of the other, per table. The heart that replay,
 * proof and verification share: all three use the same expressions, so what was proved is what is
 * replayed.
 *
 * The map is derived (DESIGN 6): blue's tables and columns are found by name in the picture of
 * green right BEFORE its migrations (restored from blue, so names agree), followed by OID and
 * attnum to green AFTER them. Names alone or numbers alone mislead (TRAPS 27). Rules of the
 * playbook's [map ...] sections are laid over it. The map points into the catalogs, which must
 * outlive it. Immutable after map_derive: threads may share it.
 */
#ifndef PGCUTOVER_MAP_MAP_H
#define PGCUTOVER_MAP_MAP_H

#include "pg/catalog.h"

/* One [map schema.table] section; strings are borrowed from the playbook. */
struct map_rule {
    const char *section; /* "public.orders", for messages; "*" may be the schema part */
    int line;            /* in the playbook */
    const char *table;   /* new name, or NULL */
    bool skip;
    const char *const *key;       /* NULL-terminated target columns, or NULL */
    const char *const *volatiles; /* NULL-terminated target columns, or NULL */
    struct map_up {
        const char *column; /* target column */
        const char *expr;   /* SQL over the source row's columns */
    } * up;
    size_t nup;
};

/* One target column that the map writes. */
struct map_column {
    const struct cat_column *target;
    const struct cat_column *source; /* the column it comes from; NULL for a rule */
    char *expr;                      /* SQL over alias r (the typed source row) */
    bool rule;                       /* declared, not derived */
    bool same_type;                  /* copied: source and target text forms are the same */
    bool volatile_value;             /* compared for presence only */
    bool settable;                   /* false: identity ALWAYS, may not stand in UPDATE SET */
    int key_index;                   /* position in the key, -1 */
    char *equals; /* equality of the target's type where search_path doesn't find it:
                   * "OPERATOR(public.=)"; NULL: "=" */
    bool indexed; /* leads an index of the target */
    int *needs;   /* indexes into map_table.source_columns that expr reads */
    size_t nneeds;
};

/* A target column that the map doesn't write. */
enum map_rest_kind {
    MAP_REST_NULL,     /* no default: new rows have NULL, and so must old ones */
    MAP_REST_CONSTANT, /* immutable default: every row must have it */
    MAP_REST_VOLATILE, /* default by clock, chance or sequence (identity, serial): not compared */
    MAP_REST_GENERATED /* green computes it */
};
struct map_rest {
    const struct cat_column *target;
    enum map_rest_kind kind;
    char *expect; /* SQL of the default as the column's full type, for project_text; or NULL */
};

struct map_table {
    size_t index;                   /* in map.tables */
    const struct cat_table *source; /* a leaf (relkind r) */
    /* where rows go: the partition root, or the table; NULL when dropped/skipped */
    const struct cat_table *target;
    const struct cat_table *target_leaf; /* the leaf there, for TRUNCATE; NULL if it has none */
    bool only;      /* say ONLY on the target (plain table with inheritance children) */
    bool shared;    /* tables that are no partitions of the same table feed the target too: its rows
                     * aren't all of this source, so a TRUNCATE can't be carried over */
    bool skipped;   /* deltas are dropped; reason says why (table dropped, skip = yes) */
    bool identical; /* every column copied with the same type under any name, nothing else: the
                     * sides' own text can be compared without evaluating anything */
    char *reason;   /* for people: "renamed to sales.purchase_orders", "rebuilt under its name" */
    char *unresolved; /* why it can't be mapped soundly, with the way on; NULL when it can */
    const struct cat_column **source_columns; /* as published: live, not generated, by attnum */
    char **source_types; /* the SQL type of each on green ("text" when green has it no more) */
    size_t nsource;
    int *source_key;    /* indexes into source_columns: the effective identity of the source; ... */
    size_t nsource_key; /* 0: no key; rows are matched whole, compared as multisets */
    struct map_column *columns;
    size_t ncolumns, capcolumns;
    int *key; /* indexes into columns, in source_key's order: what identifies a target row */
    size_t nkey;
    struct map_rest *rest;
    size_t nrest, caprest;
    bool wants_full; /* a rule reads a toastable column: the source needs REPLICA IDENTITY FULL */
};

struct map {
    const struct catalog *source, *target;
    struct map_table *tables; /* one for every leaf of the source */
    size_t ntables;
    /* A sequence of green may take over from several of blue, and one of blue hand over to several:
     * those that were restored from it, and those that feed on green a column that it feeds. */
    struct map_sequence {
        Oid source, target; /* target 0: gone on green */
    } * sequences;          /* by source, target */
    size_t nsequences, capsequences;
    const struct cat_table **new_tables; /* tables of the target that no source table feeds */
    size_t nnew_tables, capnew_tables;
};

/* Derives the map. green: a connection to the migrated clone, which checks every generated
 * statement (EXPLAIN), tells what columns a rule reads (dependencies of a temporary view) and
 * whether a default is immutable. Unresolved tables are no error here: see map_unresolved. A rule
 * for a table or column that doesn't exist is ERR_PLAYBOOK with the nearest name. */
bool map_derive(struct map *out, const struct catalog *blue, const struct catalog *green_before,
                const struct catalog *green, const struct map_rule *rules, size_t nrules,
                struct pg *green_pg, struct error *err) WARN_UNUSED;
void map_release(struct map *m);

size_t map_unresolved(const struct map *m); /* how many tables have unresolved set */
/* The map as text for people: a block for each table that changed, one line for the count of those
 * that did not. */
void map_print(struct strbuf *out, const struct map *m, bool all);

const struct map_table *map_by_name(const struct map *m, const char *schema, const char *name);

/* Before green exists: oids (0-terminated, malloc'd, caller frees) of blue's tables for which a
 * rule reads a toastable column by name, so that capture can give them REPLICA IDENTITY FULL (TRAPS
 * 9). Errs to the safe side. */
bool map_rules_need_full(const struct catalog *blue, const struct map_rule *rules, size_t nrules,
                         Oid **oids, struct error *err) WARN_UNUSED;

#endif
