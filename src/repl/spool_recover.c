/*
 * Opening a directory: every record of every segment is read. The last segment may end in a torn
 * tail, which is cut off together with the transaction that it belonged to; that transaction may
 * have begun some segments before. Anything else that is not as the writer leaves it is ERR_IO:
 * nothing of ours makes it, and what was there may be gone from the slot already.
 */
#include "repl/spool_internal.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the reading stands. */
struct scan {
    struct spool *s;
    struct spool_stream stream;
    lsn_t last_commit, end, open_commit;
    struct spool_place whole; /* the end of the last whole transaction or position */
    lsn_t whole_commit, whole_end;
};

static bool damaged(const struct spool *s, uint64_t number, int64_t offset, const char *what,
                    struct error *err)
{
    char *path = spool_segment_path(s, number);
    error_set(err, ERR_IO, "spool segment \"%s\" is damaged at byte %" PRId64 ": %s", path, offset,
              what);
    free(path);
    return error_hint(err, "Restore the file from a copy, or abort the run and make a new clone.");
}

static bool parse_name(const char *name, uint64_t *number)
{
    char again[32];
    char *end;

    *number = strtoull(name, &end, 16);
    snprintf(again, sizeof again, "%016" PRIX64 ".spool", *number);
    return strcmp(again, name) == 0 && *number > 0;
}

static bool list_segments(struct spool *s, struct error *err)
{
    char **names = NULL;
    size_t n = 0;
    bool ok = true;

    if (!file_list(s->dir, &names, &n, err))
        return false;
    for (size_t i = 0; ok && i < n; i++) {
        uint64_t number;
        if (!parse_name(names[i], &number))
            continue;
        if (s->nsegments > 0 && number != s->segments[s->nsegments - 1].number + 1)
            ok = error_set(err, ERR_IO, "a spool segment is missing in \"%s\" before \"%s\"",
                           s->dir, names[i]);
        else
            VEC_ADD(s->segments, s->nsegments, s->capsegments)->number = number;
    }
    file_free_list(names);
    return ok;
}

static void mark_whole(struct scan *sc, uint64_t number)
{
    sc->whole = (struct spool_place){number, sc->stream.offset};
    sc->whole_commit = sc->last_commit;
    sc->whole_end = sc->end;
}

/* One record against what came before it. NULL when it fits, else what is wrong. */
static const char *take(struct scan *sc, uint64_t number, const struct spool_raw *raw)
{
    switch (raw->kind) {
    case SPOOL_BEGIN:
        if (sc->open_commit || raw->lsn <= sc->last_commit || raw->lsn < sc->end)
            return "a transaction out of order";
        sc->open_commit = raw->lsn;
        return NULL;
    case SPOOL_MESSAGE:
        return sc->open_commit ? NULL : "a message outside a transaction";
    case SPOOL_COMMIT:
        if (sc->open_commit != raw->lsn || spool_get_end(raw) <= raw->lsn)
            return "a commit of another transaction";
        sc->last_commit = raw->lsn;
        sc->end = spool_get_end(raw);
        sc->open_commit = 0;
        break;
    case SPOOL_POSITION:
        if (sc->open_commit || raw->lsn <= sc->end)
            return "a position out of order";
        sc->end = raw->lsn;
        break;
    default:
        return "a segment's beginning in its middle";
    }
    mark_whole(sc, number);
    return NULL;
}

/* The first segment of all (i 0) says what the trimmed ones before it held; the others must agree.
 */
static bool take_header(struct scan *sc, size_t i, const struct spool_raw *raw, struct error *err)
{
    struct spool_segment *seg = &sc->s->segments[i];

    if (!spool_get_segment(raw, seg))
        return damaged(sc->s, seg->number, 0, "not a spool segment of this version", err);
    if (i == 0) {
        sc->last_commit = seg->last_commit;
        sc->end = seg->end;
        sc->open_commit = seg->open_commit;
        mark_whole(sc, seg->number);
    } else if (seg->last_commit != sc->last_commit || seg->end != sc->end ||
               seg->open_commit != sc->open_commit) {
        return damaged(sc->s, seg->number, 0, "it doesn't continue the segment before", err);
    } else if (!sc->open_commit) {
        mark_whole(sc, seg->number);
    }
    return true;
}

/*
 * A segment begins with its header, durable before anything follows. So a file no longer than that
 * without a good header was torn while it was made: the last one may be, and nothing was lost with
 * it.
 */
static bool scan_segment(struct scan *sc, size_t i, bool *torn_at_birth, struct error *err)
{
    struct spool_segment *seg = &sc->s->segments[i];
    struct spool_raw raw;
    enum spool_stream_result rc;
    const char *wrong = NULL;
    bool last = i + 1 == sc->s->nsegments;

    if (!spool_stream_open(&sc->stream, sc->s, seg->number, err))
        return false;
    seg->bytes = sc->stream.limit;
    rc = spool_stream_next(&sc->stream, &raw, err);
    if (rc == STREAM_IO)
        return false;
    *torn_at_birth = rc != STREAM_RECORD && last && seg->bytes <= (int64_t) SPOOL_SEGMENT_HEADER &&
                     (i > 0 || seg->number == 1);
    if (*torn_at_birth)
        return true;
    if (rc != STREAM_RECORD)
        return damaged(sc->s, seg->number, 0, "its beginning can't be read", err);
    if (!take_header(sc, i, &raw, err))
        return false;
    while (!wrong && (rc = spool_stream_next(&sc->stream, &raw, err)) == STREAM_RECORD)
        wrong = take(sc, seg->number, &raw);
    if (rc == STREAM_IO)
        return false;
    if (wrong)
        return damaged(sc->s, seg->number, raw.at, wrong, err);
    if (rc == STREAM_BAD && !last)
        return damaged(sc->s, seg->number, sc->stream.offset, "a record with a wrong checksum",
                       err);
    return true;
}

/* The trimmed segment's rest of a transaction without its end: no transaction is whole, nothing may
 * be cut. */
static bool check_first(const struct scan *sc, struct error *err)
{
    const struct spool_segment *first = &sc->s->segments[0];
    if (first->open_commit && sc->whole.number == first->number &&
        sc->whole.offset == (int64_t) SPOOL_SEGMENT_HEADER)
        return damaged(sc->s, first->number, sc->whole.offset,
                       "the end of a transaction that was trimmed is missing", err);
    return true;
}

static bool scan_all(struct scan *sc, struct error *err)
{
    bool torn = false;

    for (size_t i = 0; i < sc->s->nsegments; i++)
        if (!scan_segment(sc, i, &torn, err))
            return false;
    if (torn && sc->s->nsegments == 1)
        sc->s->nsegments = 0; /* never was one */
    return sc->s->nsegments == 0 || check_first(sc, err);
}

/* What is left is made durable once more: a killed process leaves it to the kernel. */
static bool go_on_from(struct spool *s, const struct scan *sc, struct error *err)
{
    s->last_commit = sc->whole_commit;
    s->end = sc->whole_end;
    s->visible = sc->whole;
    if (!spool_segment_reopen(s, s->segments[s->nsegments - 1].number, err))
        return false;
    spool_cut(s);
    return spool_sync(s, err);
}

bool spool_recover(struct spool *s, struct error *err)
{
    struct scan sc = {.s = s};
    bool ok;

    if (!list_segments(s, err))
        return false;
    spool_stream_init(&sc.stream, s->opt.buffer_bytes);
    ok = scan_all(&sc, err);
    spool_stream_release(&sc.stream);
    if (!ok)
        return false;
    return s->nsegments > 0 ? go_on_from(s, &sc, err) : spool_segment_start(s, 1, err);
}
