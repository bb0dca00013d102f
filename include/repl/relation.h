/*
 * relation.h - which table of the map a change belongs to, and where its columns stand in a tuple.
 *
 * A walsender tells a relation once before its first change and again when it changed (TRAPS 10).
 * The spool is read from the middle, so the message may lie before what is read, or be gone: then
 * the map says the same by the relation's OID, and what is no table of the map can only be the
 * marker, the one other published table. A message that differs from the map is DDL on the source:
 * ERR_NOGO.
 */
#ifndef PGCUTOVER_REPL_RELATION_H
#define PGCUTOVER_REPL_RELATION_H

#include "map/map.h"
#include "repl/pgoutput.h"

enum relation_kind {
    RELATION_TABLE,
    RELATION_SKIPPED, /* the map says that its changes are dropped */
    RELATION_MARKER
};

struct relation {
    uint32_t id;
    enum relation_kind kind;
    const struct map_table *mt; /* NULL for the marker */
    uint16_t ncolumns;          /* of its tuples; 0: any number, for what isn't applied */
    int *position;              /* by source column: its place in the tuple; NULL: the same */
    int run_at, n_at;           /* of the marker: places of its columns */
};

struct relations;

struct relations *relations_new(const struct map *map, const char *marker_schema);
void relations_free(struct relations *rs);

/* Takes in a RELATION message. Relations found before stay valid. */
bool relations_learn(struct relations *rs, const struct pgo_message *m,
                     struct error *err) WARN_UNUSED;
bool relations_find(struct relations *rs, uint32_t id, const struct relation **out,
                    struct error *err) WARN_UNUSED;

/* The tuple's values in the order of mt->source_columns; it may be the tuple's own array. */
bool relation_row(const struct relation *r, const struct pgo_tuple *tuple, struct arena *arena,
                  const struct pgo_value **out, struct error *err) WARN_UNUSED;

#endif
