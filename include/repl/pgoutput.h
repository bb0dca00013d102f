/*
 * pgoutput.h - the logical replication messages of protocol version 1 to 4, as bytes into structs.
 * https://www.postgresql.org/docs/15/protocol-logicalrep-message-formats.html
 * Pure: needs only base/, checks every length, links without libpq, keeps no state. Everything
 * points into the message, which must outlive the struct; tuples are allocated in the arena.
 */
#ifndef PGCUTOVER_REPL_PGOUTPUT_H
#define PGCUTOVER_REPL_PGOUTPUT_H

#include "base/arena.h"
#include "base/error.h"
#include "base/lsn.h"

#include <stddef.h>
#include <stdint.h>

enum pgo_type {
    PGO_BEGIN = 'B',
    PGO_COMMIT = 'C',
    PGO_ORIGIN = 'O',
    PGO_RELATION = 'R',
    PGO_TYPE = 'Y',
    PGO_INSERT = 'I',
    PGO_UPDATE = 'U',
    PGO_DELETE = 'D',
    PGO_TRUNCATE = 'T',
    PGO_MESSAGE = 'M',
    PGO_STREAM_START = 'S',
    PGO_STREAM_STOP = 'E',
    PGO_STREAM_COMMIT = 'c',
    PGO_STREAM_ABORT = 'A',
    PGO_BEGIN_PREPARE = 'b',
    PGO_PREPARE = 'P',
    PGO_COMMIT_PREPARED = 'K',
    PGO_ROLLBACK_PREPARED = 'r',
    PGO_STREAM_PREPARE = 'p'
};

/* MaxTupleAttributeNumber in PostgreSQL's access/htup_details.h; a message that claims more is
 * refused. */
#define PGO_MAX_COLUMNS 1664

struct pgo_value {
    char kind;        /* 'n' null, 'u' unchanged TOAST, 't' text, 'b' binary */
    const char *data; /* not NUL-terminated */
    uint32_t len;
};

struct pgo_tuple {
    uint16_t n;
    struct pgo_value *values;
};

struct pgo_column {
    bool key; /* part of the replica identity */
    const char *name;
    uint32_t type;
    int32_t typmod;
};

struct pgo_message {
    enum pgo_type type;
    uint32_t xid;    /* begin, stream and two-phase messages, anything in a stream; 0 elsewhere */
    uint32_t subxid; /* stream abort */
    lsn_t lsn;       /* begin: the commit record's; commit: the commit record's; message: its own */
    lsn_t end_lsn;   /* commit, prepare, commit prepared, rollback prepared */
    int64_t time_us; /* begin, commit: microseconds since 2000-01-01 */
    uint32_t relation;         /* relation, insert, update, delete; type: its OID */
    const char *schema, *name; /* relation, type; origin: name; message: name = prefix; two-phase:
                                * name = GID. pg_catalog, which is sent as "", is spelt out */
    char identity;             /* relation: relreplident */
    uint16_t ncolumns;
    struct pgo_column *columns;
    char old_kind; /* update, delete: 'K' key, 'O' whole old row, 0 none */
    struct pgo_tuple old_row, new_row;
    uint8_t truncate_options; /* 1 cascade, 2 restart identity */
    uint32_t nrelations;
    uint32_t *relations; /* truncate */
    const char *content; /* message */
    uint32_t content_len;
    bool transactional;
};

/* in_stream: between stream start and stop, where messages carry an xid. ERR_PROTOCOL for bytes
 * that make no sense: too short, left over, an unknown type, a count past its ceiling or past what
 * the message can hold. */
bool pgo_decode(struct pgo_message *out, const void *data, size_t len, bool in_stream,
                struct arena *arena, struct error *err) WARN_UNUSED;

#endif
