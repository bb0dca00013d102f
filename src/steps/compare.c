/*
 * compare.c - "at one LSN" (DESIGN 6): replay held; a temporary slot on blue exports a snapshot at
 * its consistent point; replay goes exactly there; green's snapshot is exported; replay goes on;
 * the two snapshots are compared.
 */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/position.h"
#include "steps/steps.h"
#include "steps/verify_options.h"
#include "sys/file.h"

#include <stdlib.h>
#include <string.h>

#define HOLD_MS 600000

struct point {
    struct cutover *c;
    bool covers; /* what was touched before this point needs no further look: everything is compared
                    at it */
    struct pg *exporter; /* walsender on blue */
    struct pg *target;   /* green's exporting transaction */
    struct slot_snapshot snap;
    char target_snapshot[64];
    bool held;
};

static void let_go(void *ctx)
{
    struct point *p = ctx;

    pg_close(p->exporter);
    pg_close(p->target);
    p->exporter = p->target = NULL;
    if (p->held && p->covers)
        touched_clear(p->c->touched);
    if (p->held)
        apply_go_on(p->c->apply);
    p->held = false;
}

static bool blue_snapshot(struct point *p, struct error *err)
{
    struct cutover *c = p->c;
    char name[80];

    snprintf(name, sizeof name, "%.55s_cmp", c->names.slot);
    if (!side_open(c, &c->blue, PG_WALSENDER, "compare-slot", &p->exporter, err))
        return false;
    pg_set_deadline(p->exporter,
                    clock_us() + playbook_us(cutover_section(c, "capture"), "slot_timeout"));
    return slot_create(p->exporter, c->blue.pg, name, true, &p->snap, err);
}

static bool green_snapshot(struct point *p, struct error *err)
{
    return side_open(p->c, &p->c->green, PG_PLAIN, "compare-snapshot", &p->target, err) &&
           pg_begin(p->target, "ISOLATION LEVEL REPEATABLE READ READ ONLY", err) &&
           pg_export_snapshot(p->target, p->target_snapshot, err);
}

/* Prove: replay has not begun; only the spool must reach the point, so that the keys changed
 * meanwhile are known. */
static bool wait_spooled(struct cutover *c, lsn_t lsn, struct error *err)
{
    struct capture_stats s;

    for (;;) {
        capture_stats(c->capture, &s);
        if (s.received >= lsn)
            return true;
        if (!live_check(c, err))
            return false;
        clock_sleep_ms(5);
    }
}

static bool reach_point(struct point *p, enum compare_mode mode, struct error *err)
{
    struct cutover *c = p->c;
    int64_t marker;
    lsn_t past;

    if (mode == COMPARE_VERIFY) {
        if (!apply_hold(c->apply, clock_in_ms(HOLD_MS), err))
            return false;
        p->held = true;
    }
    /* The marker gives the stream something past the point, so that "everything before it" can be
     * told. */
    if (!blue_snapshot(p, err) || !marker_write(c->blue.pg, c->names.run, &marker, &past, err))
        return false;
    if (mode == COMPARE_PROVE)
        return wait_spooled(c, past, err) && green_snapshot(p, err);
    return apply_run_to(c->apply, p->snap.consistent_point, clock_in_ms(HOLD_MS), err) &&
           green_snapshot(p, err);
}

static json_t *table_record(const struct verify_table *t)
{
    return json_pack("{s:s, s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "table",
                     t->table->source->sql_name, "target",
                     t->table->target ? t->table->target->sql_name : NULL, "rows",
                     (json_int_t) t->source_rows, "proved", (json_int_t) t->proved, "excepted",
                     (json_int_t) t->excepted, "missing", (json_int_t) t->missing, "extra",
                     (json_int_t) t->extra, "differing", (json_int_t) t->differing, "us",
                     (json_int_t) t->elapsed_us);
}

static bool journal_result(struct cutover *c, const struct point *p, const char *what,
                           const struct verify_result *r, struct error *err)
{
    json_t *tables = json_array();
    char lsn[LSN_SIZE];

    for (size_t i = 0; i < r->ntables; i++)
        if (r->tables[i].compared)
            json_array_append_new(tables, table_record(&r->tables[i]));
    return journal_add(
        c->journal, what,
        json_pack("{s:s, s:I, s:I, s:I, s:o}", "lsn", lsn_str(lsn, p->snap.consistent_point),
                  "rows", (json_int_t) r->rows, "differing", (json_int_t) r->differing, "unproved",
                  (json_int_t) r->unproved, "tables", tables),
        err);
}

/* A table that was rewritten under the snapshot (TRUNCATE, VACUUM FULL) was left out: the tail is
 * to compare it. */
static void leave_to_tail(struct cutover *c, const struct verify_result *r)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (r->tables[i].compared && r->tables[i].excepted > 0 && r->tables[i].proved == 0)
            touched_add_whole(c->touched, r->tables[i].table->index);
}

static bool judge(struct cutover *c, enum compare_mode mode, const struct verify_result *r,
                  struct error *err)
{
    const char *file = mode == COMPARE_PROVE ? "proof.txt" : "verification.txt";
    struct strbuf text = {0};
    char *path = cutover_file(c, file);
    bool ok;

    verify_describe(&text, &c->map, r);
    ok = file_replace(path, strbuf_cstr(&text), text.len, 0600, err);
    if (ok && r->differing > 0) {
        error_set(err, ERR_NOGO, "%lld rows differ between blue (through the map) and green",
                  (long long) r->differing);
        error_detail(err, "%s", strbuf_cstr(&text));
        ok = error_hint(err,
                        mode == COMPARE_PROVE
                            ? "The map does not know what the migrations did there. Add the rule "
                              "to the playbook "
                              "and type `pgcutover resume %s --playbook FILE`. All of it: %s"
                            : "Replay and blue disagree: nothing is switched. `pgcutover abort %s` "
                              "leaves blue as "
                              "it was. All of it: %s",
                        c->names.run, path);
    }
    if (ok && r->unproved > 0 && mode == COMPARE_PROVE)
        event_warn(
            "%zu tables have rows but none could be proved (all of them changed meanwhile): see %s",
            r->unproved, path);
    if (ok && mode == COMPARE_PROVE) {
        char n[24];

        snprintf(n, sizeof n, "%zu", r->unproved);
        ok = journal_fact(c->journal, "unproved", n, err);
    }
    if (ok)
        event_info("%lld rows compared, none differs", (long long) r->rows);
    free(path);
    strbuf_release(&text);
    return ok;
}

bool compare_at_one_lsn(struct cutover *c, enum compare_mode mode, struct error *err)
{
    struct point p = {.c = c};
    struct verify_options o;
    struct verify_result result = {0};
    struct touched *except = NULL;
    bool ok;

    verify_options_fill(c, &o);
    if (mode == COMPARE_PROVE)
        except = touched_new(c->map.ntables, 5000000);
    ok = reach_point(&p, mode, err) &&
         (mode == COMPARE_VERIFY ||
          apply_scan_touched(c->spool, &c->map, p.snap.consistent_point, except, err));
    if (ok) {
        o.source.snapshot = p.snap.snapshot;
        o.target.snapshot = p.target_snapshot;
        o.except = except;
        o.ready = let_go;
        o.ctx = &p;
        p.covers = mode == COMPARE_VERIFY;
        ok =
            verify_full(&o, &result, err) &&
            journal_result(c, &p, mode == COMPARE_PROVE ? "proof" : "verification", &result, err) &&
            judge(c, mode, &result, err);
    }
    if (ok && mode == COMPARE_VERIFY)
        leave_to_tail(c, &result);
    let_go(&p);
    touched_free(except);
    verify_result_release(&result);
    return ok;
}
