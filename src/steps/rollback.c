/*
 * rollback.c - back to blue after open. Reverse replay does not exist yet: green's writes since it
 * opened would not come along. They are counted, by table, from green's own slot, and without
 * --lose-writes nothing is done.
 */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/fence.h"
#include "pg/position.h"
#include "steps/pause.h"
#include "steps/steps.h"

#include <stdlib.h>
#include <string.h>

bool cutover_writes_since_open(struct cutover *c, struct write_count **out, size_t *n,
                               struct error *err)
{
    struct slot_change *list = NULL;
    struct slot_info slot;

    *out = NULL;
    *n = 0;
    if (!slot_read(c->green.pg, c->names.back_slot, &slot, err))
        return false;
    if (!slot.exists || strcmp(slot.wal_status, "lost") == 0) {
        error_set(err, ERR_OPERATOR,
                  "slot %s on green is %s: its writes since it opened can't be counted",
                  c->names.back_slot, slot.exists ? "lost" : "gone");
        return error_hint(err, "With --lose-writes the rollback goes on without knowing them.");
    }
    if (!slot_count_changes(c->green.pg, c->names.back_slot, c->names.back_publication, &list, n,
                            err))
        return false;
    *out = xcalloc(*n + 1, sizeof **out);
    for (size_t i = 0; i < *n; i++)
        (*out)[i] = (struct write_count){.table = xstrdup(list[i].table),
                                         .inserts = list[i].inserts,
                                         .updates = list[i].updates,
                                         .deletes = list[i].deletes,
                                         .truncates = list[i].truncates};
    slot_changes_release(list, *n);
    return true;
}

void write_counts_release(struct write_count *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(w[i].table);
    free(w);
}

static int64_t total(const struct write_count *w, size_t n, struct strbuf *text)
{
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        sum += w[i].inserts + w[i].updates + w[i].deletes + w[i].truncates;
        strbuf_addf(text, "%s: %lld inserts, %lld updates, %lld deletes", w[i].table,
                    (long long) w[i].inserts, (long long) w[i].updates, (long long) w[i].deletes);
        if (w[i].truncates)
            strbuf_addf(text, ", %lld truncates", (long long) w[i].truncates);
        strbuf_addch(text, '\n');
    }
    return sum;
}

static json_t *counts_record(const struct write_count *w, size_t n, int64_t sum)
{
    json_t *tables = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(
            tables,
            json_pack("{s:s, s:I, s:I, s:I, s:I}", "table", w[i].table, "inserts",
                      (json_int_t) w[i].inserts, "updates", (json_int_t) w[i].updates, "deletes",
                      (json_int_t) w[i].deletes, "truncates", (json_int_t) w[i].truncates));
    return json_pack("{s:I, s:o}", "total", (json_int_t) sum, "tables", tables);
}

static bool may_lose(struct cutover *c, bool final, struct error *err)
{
    struct write_count *w = NULL;
    struct strbuf text = {0};
    struct error why = {0};
    int64_t sum = 0;
    size_t n = 0;
    bool ok = true;

    if (cutover_writes_since_open(c, &w, &n, &why)) {
        sum = total(w, n, &text);
        ok = journal_add(c->journal, final ? "lost_writes" : "writes_since_open",
                         counts_record(w, n, sum), err);
    } else if (c->lose_writes) {
        event_warn("%s", why.message);
    } else {
        *err = why;
        ok = false;
    }
    if (ok && sum > 0 && !c->lose_writes) {
        error_set(err, ERR_NOGO, "green took %lld writes since it opened, which blue does not have",
                  (long long) sum);
        error_detail(err, "%s", text.data);
        ok = error_hint(
            err, "Green serves on. `pgcutover rollback %s --lose-writes` goes back without them.",
            c->names.run);
    } else if (ok && final) {
        event_info(sum ? "%lld writes on green since it opened stay behind there:\n%s"
                       : "green took no write (%lld)%s",
                   (long long) sum, strbuf_cstr(&text));
    }
    write_counts_release(w, n);
    strbuf_release(&text);
    return ok;
}

/* Refuse before anybody is disturbed. Also on resume: it opens what the later steps need. */
bool step_rollback_prepare(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    enum fence_state state;

    pause_direction(c, true);
    if (!cutover_open_traffic(c, err) || !side_load(c, &c->blue, err) ||
        !side_lock(c, &c->blue, err) || !side_connect(c, &c->green, err) ||
        !side_lock(c, &c->green, err) || !live_load_map(c, err))
        return false;
    if (journal_get_fact(c->journal, "rollback_decided"))
        return true;
    if (!fence_state(c->blue.pg, &state, err))
        return false;
    if (state != FENCE_CLOSED) {
        error_set(err, ERR_OPERATOR,
                  "blue's fence does not stand: both sides may have taken writes");
        return error_hint(
            err,
            "Find out what lifted it before you go back: blue's own writes since then are not on "
            "green.");
    }
    for (size_t i = 0; i < c->ntraffic; i++)
        if (!traffic_prepare(c->traffic[i], err))
            return error_push(err, "[traffic %s]", traffic_name(c->traffic[i]));
    return may_lose(c, false, err);
}

bool step_rollback_count(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!may_lose(c, true, err) || !pause_carry_sequences(c, err))
        return false;
    pause_part(c, "counted");
    return FAULT("rollback.counted", err) && pause_in_budget(c, "flip", err);
}
