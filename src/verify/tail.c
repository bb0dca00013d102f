/*
 * tail.c - the keys that replay touched since they were last compared.
 *
 * A pass reads the source first and the target after it, live. A key that is equal then has been
 * equal once after its last change: a later change adds it again after its commit on the target. A
 * key that differs is put back; most often replay just hasn't come to it.
 */
#include "tail.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"

#include <stdlib.h>

#define BATCH_KEYS 2000
#define BATCH_BYTES (8 << 20)
#define RECONNECT_US 30000000
#define DESCRIBED_BYTES 16384

bool verifier_open(struct verifier **out, const struct verify_options *o, struct touched *touched,
                   struct error *err)
{
    struct verifier *v = xcalloc(1, sizeof *v);

    v->o = *o;
    v->o.source.snapshot = v->o.target.snapshot = NULL;
    v->o.except = NULL;
    v->touched = touched;
    v->us_per_key = 60;
    v->us_per_row = 6;
    v->groups = vgroups_new(o->map, &v->ngroups, &v->group_of);
    if (!vsession_open(&v->s, &v->o, "verify-tail", err)) {
        verifier_close(v);
        return false;
    }
    *out = v;
    return true;
}

void verifier_close(struct verifier *v)
{
    if (!v)
        return;
    vsession_close(&v->s);
    vgroups_free(v->groups, v->ngroups, v->group_of);
    misses_release(&v->misses);
    free(v);
}

static size_t batch_size(const struct map_table *mt)
{
    const struct cat_table *t = mt->source;
    double width = t->reltuples > 0 ? (double) t->bytes / t->reltuples : 1000;
    double keys = BATCH_BYTES / (width + 50);

    return keys > BATCH_KEYS ? BATCH_KEYS : keys < 10 ? 10 : (size_t) keys;
}

/* A table's keys taken out of the set in one go, and the verdict on each. */
struct taken {
    struct taken *next;
    struct touched_batch keys;
    bool *differs;
    uint64_t *rows;
};

static void put_back(struct verifier *v, size_t table, struct taken *list, bool all)
{
    while (list) {
        struct taken *next = list->next;
        for (size_t i = 0; i < list->keys.n; i++)
            if (all || list->differs[i])
                touched_put_back(v->touched, table, &list->keys, i);
        touched_batch_release(&list->keys);
        free(list->differs);
        free(list->rows);
        free(list);
        list = next;
    }
}

static void note_verdicts(struct verifier *v, size_t table, const struct taken *t)
{
    size_t nkey = t->keys.nkey;

    for (size_t i = 0; i < t->keys.n; i++) {
        char *const *values = t->keys.values + i * nkey;
        const int *lens = t->keys.lens + i * nkey;
        if (t->differs[i])
            misses_add(&v->misses, table, nkey, values, lens, t->rows[i]);
        else
            misses_forget(&v->misses, table, nkey, values, lens);
        v->compared += !t->differs[i];
    }
}

static void measure(struct verifier *v, size_t keys, int64_t us)
{
    if (keys >= 20)
        v->us_per_key += 0.2 * ((double) us / (double) keys - v->us_per_key);
}

struct tally {
    size_t max; /* keys still to be taken */
    int64_t differing;
    struct strbuf *text; /* final: what differs, or NULL */
    int examples;
    int64_t deadline_us;
};

static bool next_batch(struct verifier *v, const struct map_table *mt, size_t max,
                       struct tally *tally, struct taken **list, size_t *n, struct error *err)
{
    struct taken *t = xcalloc(1, sizeof *t);
    size_t want = batch_size(mt);
    int64_t began = clock_us();

    touched_take(v->touched, mt->index, want < max ? want : max, &t->keys);
    t->differs = xcalloc(t->keys.n + 1, sizeof *t->differs);
    t->rows = xcalloc(t->keys.n + 1, sizeof *t->rows);
    t->next = *list;
    *list = t;
    *n = t->keys.n;
    if (t->keys.n == 0 || v->group_of[mt->index] < 0)
        return true;
    if (!tail_compare_keys(v, mt, &t->keys, t->differs, t->rows, tally->text, &tally->examples,
                           err))
        return false;
    measure(v, t->keys.n, clock_us() - began);
    note_verdicts(v, mt->index, t);
    for (size_t i = 0; i < t->keys.n; i++)
        tally->differing += t->differs[i];
    return true;
}

static void head_examples(struct tally *tally, const struct map_table *mt, size_t before)
{
    struct strbuf tail = {0};

    if (!tally->text || tally->text->len == before)
        return;
    strbuf_addstr(&tail, tally->text->data + before);
    tally->text->len = before;
    strbuf_addf(tally->text, "%s:\n%s", mt->source->sql_name, strbuf_cstr(&tail));
    strbuf_release(&tail);
}

/* All keys that the table has now, up to tally->max; those that differ go back at the end, so that
 * none is taken twice. */
static bool compare_table(struct verifier *v, const struct map_table *mt, struct tally *tally,
                          struct error *err)
{
    size_t left = touched_count_table(v->touched, mt->index),
           before = tally->text ? tally->text->len : 0;
    struct taken *list = NULL;
    bool ok = true;

    tally->examples = tally->text && before < DESCRIBED_BYTES ? v->o.examples : 0;
    if (left > tally->max)
        left = tally->max;
    while (ok && left > 0) {
        size_t n = 0;
        if (clock_passed(tally->deadline_us))
            ok = error_set(err, ERR_TIMEOUT, "no time left to compare %zu keys",
                           touched_count(v->touched));
        else
            ok = next_batch(v, mt, left, tally, &list, &n, err);
        if (ok && n == 0)
            break;
        left -= n;
        tally->max -= n;
    }
    head_examples(tally, mt, before);
    put_back(v, mt->index, list, !ok);
    return ok;
}

static bool compare_tables(struct verifier *v, struct tally *tally, struct error *err)
{
    size_t n = v->o.map->ntables, first = v->next_table;
    bool ok = true;

    for (size_t i = 0; ok && i < n && tally->max > 0; i++) {
        size_t table = (first + i) % n;
        if (touched_count_table(v->touched, table) > 0)
            ok = compare_table(v, &v->o.map->tables[table], tally, err);
        v->next_table = (table + 1) % n;
    }
    return ok;
}

static bool reconnect(struct verifier *v, struct error *err)
{
    int64_t until = clock_us() + RECONNECT_US;

    event_warn("the verifier lost a connection and opens it again: %s", err->message);
    for (;;) {
        vsession_close(&v->s);
        error_clear(err);
        if (vsession_open(&v->s, &v->o, "verify-tail", err))
            return true;
        if (err->code != ERR_CONNECT || clock_passed(until))
            return false;
        clock_sleep_ms(500);
    }
}

static bool lost(const struct verifier *v)
{
    return (v->s.source && pg_is_bad(v->s.source)) || (v->s.target && pg_is_bad(v->s.target));
}

bool verifier_pass(struct verifier *v, size_t max_keys, struct verifier_stats *stats,
                   struct error *err)
{
    struct tally tally = {.max = max_keys, .deadline_us = CLOCK_NONE};
    bool ok = compare_tables(v, &tally, err) && tail_whole_pass(v, err);

    if (!ok && err->code != ERR_STOPPED && lost(v))
        ok = reconnect(v, err);
    *stats = (struct verifier_stats){
        .compared = v->compared,
        .waiting = (int64_t) touched_count(v->touched),
        .whole = (int64_t) touched_whole_count(v->touched),
        .suspicious = v->misses.suspicious,
    };
    return ok;
}

static char *final_text(int64_t differing, const struct strbuf *text, const struct strbuf *notes)
{
    if (!differing && !notes->len)
        return NULL;
    return xstrfmt("%s%s%s", strbuf_cstr(text), notes->len ? "not confirmed row by row: " : "",
                   strbuf_cstr(notes));
}

bool verifier_final(struct verifier *v, int64_t deadline_us, int64_t *compared, int64_t *differing,
                    char **describe, struct error *err)
{
    struct strbuf text = {0}, notes = {0};
    struct tally tally = {.max = SIZE_MAX, .deadline_us = deadline_us, .text = &text};
    int64_t before = v->compared, whole = 0;
    bool ok;

    *describe = NULL;
    pg_set_deadline(v->s.source, deadline_us);
    pg_set_deadline(v->s.target, deadline_us);
    ok = compare_tables(v, &tally, err);
    *differing = tally.differing;
    ok = ok && tail_whole_final(v, deadline_us, &whole, differing, &text, &notes, err);
    *compared = v->compared - before + whole;
    if (ok)
        *describe = final_text(*differing, &text, &notes);
    else if (err->code == ERR_TIMEOUT)
        err->code = ERR_BUDGET;
    pg_set_deadline(v->s.source, CLOCK_NONE);
    pg_set_deadline(v->s.target, CLOCK_NONE);
    strbuf_release(&text);
    strbuf_release(&notes);
    return ok;
}

int64_t verifier_estimate_us(struct verifier *v)
{
    return (int64_t) ((double) touched_count(v->touched) * v->us_per_key +
                      tail_whole_estimate_us(v));
}
