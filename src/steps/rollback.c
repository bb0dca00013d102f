/*
 * rollback.c - back to blue after open. Reverse replay does not exist yet: green's writes since it
 * opened would not come along. They are counted, by table, from green's own slot, and without
 * --lose-writes nothing is done.
 */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/fence.h"
#include "pg/position.h"
#include "steps/pause.h"
#include "steps/steps.h"

#include <stdlib.h>
#include <string.h>

/* What was counted so far, kept in the journal as {"lsn": ..., "tables": {name: [i, u, d, t]}}:
 * before the pause everything up to then is counted and let go by the slot, so that little is left
 * to count in the pause. */
static json_t *counted(const struct cutover *c)
{
    const char *text = journal_get_fact(c->journal, "green_writes");
    json_t *o = text ? json_loads(text, 0, NULL) : NULL;

    return o ? o
             : json_pack("{s:s?, s:{}}", "lsn", journal_get_fact(c->journal, "open_lsn"), "tables");
}

static void add_counts(json_t *tables, const struct slot_change *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const int64_t more[4] = {list[i].inserts, list[i].updates, list[i].deletes,
                                 list[i].truncates};
        const json_t *old = json_object_get(tables, list[i].table);
        json_t *sum = json_array();

        for (size_t k = 0; k < 4; k++)
            json_array_append_new(sum, json_integer(json_integer_value(json_array_get(old, k)) +
                                                    (json_int_t) more[k]));
        json_object_set_new(tables, list[i].table, sum);
    }
}

static bool slot_counts(struct cutover *c, struct error *err)
{
    struct slot_info slot;

    if (!slot_read(c->green.pg, c->names.back_slot, &slot, err))
        return false;
    if (slot.exists && strcmp(slot.wal_status, "lost") != 0)
        return true;
    error_set(err, ERR_OPERATOR,
              "slot %s on green is %s: its writes since it opened can't be counted",
              c->names.back_slot, slot.exists ? "lost" : "gone");
    return error_hint(err, "With --lose-writes the rollback goes on without knowing them.");
}

/* *out: everything since green opened; caller decrefs. upto 0: until now. */
static bool count_writes(struct cutover *c, lsn_t upto, json_t **out, struct error *err)
{
    json_t *all = counted(c);
    const char *text = json_string_value(json_object_get(all, "lsn"));
    struct slot_change *list = NULL;
    lsn_t from = 0;
    size_t n = 0;

    *out = all;
    if (text && !lsn_parse(text, &from))
        return error_set(err, ERR_PROTOCOL, "the journal's LSN \"%s\" is none", text);
    if (!slot_counts(c, err) ||
        !slot_count_changes(c->green.pg, c->names.back_slot, c->names.back_publication, from, upto,
                            &list, &n, err))
        return false;
    add_counts(json_object_get(all, "tables"), list, n);
    slot_changes_release(list, n);
    return true;
}

static int64_t total(json_t *tables, struct strbuf *text)
{
    const char *name;
    json_t *t;
    int64_t sum = 0;

    json_object_foreach(tables, name, t)
    {
        long long v[4];

        for (size_t k = 0; k < 4; k++) {
            v[k] = json_integer_value(json_array_get(t, k));
            sum += v[k];
        }
        strbuf_addf(text, "%s: %lld inserts, %lld updates, %lld deletes", name, v[0], v[1], v[2]);
        if (v[3])
            strbuf_addf(text, ", %lld truncates", v[3]);
        strbuf_addch(text, '\n');
    }
    return sum;
}

static json_t *table_list(json_t *tables)
{
    json_t *list = json_array(), *t;
    const char *name;

    json_object_foreach(tables, name, t) json_array_append_new(
        list, json_pack("{s:s, s:O, s:O, s:O, s:O}", "table", name, "inserts", json_array_get(t, 0),
                        "updates", json_array_get(t, 1), "deletes", json_array_get(t, 2),
                        "truncates", json_array_get(t, 3)));
    return list;
}

static bool would_lose(struct cutover *c, int64_t sum, const struct strbuf *text, struct error *err)
{
    if (sum == 0 || c->lose_writes)
        return true;
    error_set(err, ERR_NOGO, "green took %lld writes since it opened, which blue does not have",
              (long long) sum);
    error_detail(err, "%s", text->data);
    return error_hint(
        err, "Green serves on. `pgcutover rollback %s --lose-writes` goes back without them.",
        c->names.run);
}

/* With --lose-writes a count that can't be had must not stand in the way. */
static bool uncounted(struct cutover *c, struct error *err)
{
    if (!c->lose_writes || pg_is_bad(c->green.pg))
        return false;
    event_warn("green's writes since it opened can't all be counted: %s", err->message);
    error_clear(err);
    return true;
}

/* Before the pause: count, keep the figures, let the slot pass over what was counted. */
static bool count_before(struct cutover *c, struct error *err)
{
    struct strbuf text = {0};
    char lsn_text[LSN_SIZE], *kept = NULL;
    json_t *all = NULL;
    lsn_t now = 0;
    int64_t sum;
    bool ok;

    if (!pg_flushed_lsn(c->green.pg, &now, err))
        return false;
    if (!count_writes(c, now, &all, err)) {
        json_decref(all);
        return uncounted(c, err);
    }
    json_object_set_new(all, "lsn", json_string(lsn_str(lsn_text, now)));
    kept = json_dumps(all, JSON_COMPACT);
    sum = total(json_object_get(all, "tables"), &text);
    ok = journal_fact(c->journal, "green_writes", kept, err) &&
         slot_advance(c->green.pg, c->names.back_slot, now, err) && would_lose(c, sum, &text, err);
    free(kept);
    json_decref(all);
    strbuf_release(&text);
    return ok;
}

/* In the pause, green fenced: the rest, for good. It may take half of what is left of the budget.
 */
static bool count_for_good(struct cutover *c, struct error *err)
{
    struct strbuf text = {0};
    json_t *all = NULL;
    int64_t sum;
    bool ok;

    pg_set_deadline(c->green.pg, clock_us() + (c->pause.deadline_us - clock_us()) / 2);
    /* Our commit is flushed, and with it what clients committed asynchronously before it: only that
     * is decoded. */
    ok = fact_set(c->green.pg, c->names.run, "counted", "for good", err) &&
         count_writes(c, 0, &all, err);
    pg_set_deadline(c->green.pg, c->pause.deadline_us);
    if (!ok) {
        ok = uncounted(c, err);
    } else {
        sum = total(json_object_get(all, "tables"), &text);
        ok = would_lose(c, sum, &text, err) &&
             journal_add(c->journal, "lost_writes",
                         json_pack("{s:I, s:o}", "total", (json_int_t) sum, "tables",
                                   table_list(json_object_get(all, "tables"))),
                         err);
        if (ok && sum > 0)
            event_info("%lld writes on green since it opened stay behind there:\n%s",
                       (long long) sum, text.data);
        else if (ok)
            event_info("green took no write since it opened: nothing is lost");
    }
    json_decref(all);
    strbuf_release(&text);
    return ok;
}

/* Writes to blue since the switch would be on no other side. */
static bool blue_is_fenced(struct cutover *c, struct error *err)
{
    enum fence_state state;
    size_t gaps = 0;

    if (!fence_state(c->blue.pg, &state, err) || !fence_gaps(c->blue.pg, &c->blue.cat, &gaps, err))
        return false;
    if (state == FENCE_CLOSED && gaps == 0)
        return true;
    error_set(err, ERR_OPERATOR,
              "blue's fence does not stand on %zu of its tables: both sides may have taken writes",
              state == FENCE_CLOSED ? gaps : c->blue.cat.ntables);
    return error_hint(
        err, "Find out what lifted it before you go back: blue's own writes since then are not on "
             "green.");
}

static bool prepare_traffic(struct cutover *c, struct error *err)
{
    for (size_t i = 0; i < c->ntraffic; i++)
        if (!traffic_prepare(c->traffic[i], err))
            return error_push(err, "[traffic %s]", traffic_name(c->traffic[i]));
    return true;
}

/* Refuse before anybody is disturbed. Also on resume: it opens what the later steps need. */
bool step_rollback_prepare(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    pause_direction(c, true);
    if (!cutover_open_traffic(c, err))
        return false;
    if (journal_get_fact(c->journal, "rollback_decided"))
        return side_connect(c, &c->blue, err);
    return side_load(c, &c->blue, err) && side_lock(c, &c->blue, err) &&
           side_connect(c, &c->green, err) && side_lock(c, &c->green, err) &&
           live_load_map(c, err) && blue_is_fenced(c, err) && prepare_traffic(c, err) &&
           count_before(c, err);
}

bool step_rollback_count(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!count_for_good(c, err) || !pause_carry_sequences(c, err))
        return false;
    pause_part(c, "counted");
    return FAULT("rollback.counted", err) && pause_in_budget(c, "flip", err);
}
