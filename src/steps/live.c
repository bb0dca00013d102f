/* live.c - the parts that run beside the engine: capture, spool, map, replay. */
#include "base/alloc.h"
#include "base/event.h"
#include "steps/cutover.h"
#include "steps/keeper.h"
#include "steps/new_tables.h"
#include "steps/tail.h"
#include "steps/verify_options.h"
#include "sys/stop.h"

#include <stdlib.h>
#include <string.h>

#define TOUCHED_LIMIT 2000000
#define CHANGED_LIMIT 500000 /* more than a pause could look at */

void verify_options_fill(struct cutover *c, struct verify_options *o)
{
    const struct playbook_section *s = cutover_section(c, "verify");

    *o = (struct verify_options){
        .run = c->names.run,
        .encoding = c->blue.cat.encoding,
        .map = &c->map,
        .source = {.conninfo = c->blue.conninfo, .dbname = c->blue.dbname},
        .target = {.conninfo = c->green.conninfo, .dbname = c->green.dbname},
        .jobs = (int) playbook_int(s, "jobs"),
        .block_rows = (int) playbook_int(s, "block_rows"),
        .examples = (int) playbook_int(s, "examples"),
    };
}

static bool open_spool(struct cutover *c, struct error *err)
{
    char *dir = cutover_file(c, "spool");
    bool ok =
        c->spool || spool_open(&c->spool, dir,
                               playbook_bytes(cutover_section(c, "capture"), "spool_limit"), err);

    free(dir);
    return ok;
}

bool live_start_capture(struct cutover *c, struct error *err)
{
    const char *start = journal_get_fact(c->journal, "consistent_point");
    struct capture_options o = {.conninfo = c->blue.conninfo,
                                .dbname = c->blue.dbname,
                                .run = c->names.run,
                                .worker = "capture",
                                .slot = c->names.slot,
                                .publication = c->names.publication,
                                .encoding = c->blue.cat.encoding,
                                .identity = c->blue.identity};
    struct capture *made = NULL;

    if (c->capture)
        return true;
    if (!start || !lsn_parse(start, &o.start))
        return error_set(err, ERR_VOID, "the journal does not know where the capture began");
    if (!open_spool(c, err))
        return false;
    o.spool = c->spool;
    if (!capture_start(&made, &o, err))
        return false;
    keeper_lock(c->keeper);
    c->capture = made;
    keeper_unlock(c->keeper);
    return true;
}

static bool has_rule(const struct cutover *c, const char *section)
{
    for (size_t i = 0; i < c->nrules; i++)
        if (strcmp(c->rules[i].section, section) == 0)
            return true;
    return false;
}

/* What a migration tool noted of the migrations is on green by its nature, and on blue not. */
static bool derive_map(struct cutover *c, struct error *err)
{
    struct map_rule *rules = NULL;
    size_t n = 0, cap = 0, own = c->nrules;
    bool ok;

    for (size_t i = 0; i < c->nrules; i++)
        *VEC_ADD(rules, n, cap) = c->rules[i];
    for (size_t i = 0; i < c->blue.cat.ntables; i++) {
        const struct cat_table *t = &c->blue.cat.tables[i];
        char *section = xstrfmt("%s.%s", t->schema, t->name);

        if (t->relkind == 'r' && is_history_table(c, t->schema, t->name) && !has_rule(c, section))
            *VEC_ADD(rules, n, cap) = (struct map_rule){.section = section, .skip = true};
        else
            free(section);
    }
    ok = map_derive(&c->map, &c->blue.cat, &c->before, &c->green.cat, rules, n, c->green.pg, err);
    for (size_t i = own; i < n; i++)
        free((char *) (uintptr_t) rules[i].section);
    free(rules);
    return ok;
}

bool live_load_map(struct cutover *c, struct error *err)
{
    bool found = false;

    if (c->map_ready)
        return true;
    if (!c->blue.cat_loaded && !side_load(c, &c->blue, err))
        return false;
    if (!side_load(c, &c->green, err))
        return false;
    catalog_release(&c->before);
    c->before = (struct catalog){0};
    if (!catalog_load_before(c->green.pg, &c->before, &found, err))
        return false;
    if (!found)
        return error_set(err, ERR_VOID,
                         "green does not hold the picture of its catalog before the migrations");
    if (!derive_map(c, err))
        return error_push(err, "deriving the map");
    c->map_ready = true;
    return true;
}

static bool make_checks(struct cutover *c, struct error *err)
{
    if (c->changed)
        return true;
    constraint_checks_release(&c->checks);
    if (!constraint_checks_derive(&c->checks, &c->map, err))
        return false;
    if (c->checks.n)
        c->changed = touched_new(c->map.ntables, CHANGED_LIMIT);
    return true;
}

bool live_start_apply(struct cutover *c, struct error *err)
{
    const struct playbook_section *s = cutover_section(c, "replay");
    struct apply_options o = {.conninfo = c->green.conninfo,
                              .dbname = c->green.dbname,
                              .run = c->names.run,
                              .encoding = c->blue.cat.encoding,
                              .map = &c->map,
                              .marker_schema = "pgcutover",
                              .batch_changes = (int) playbook_int(s, "batch_changes"),
                              .batch_bytes = playbook_bytes(s, "batch_bytes")};
    struct apply *made = NULL;

    if (c->apply)
        return true;
    if (!live_load_map(c, err) || !open_spool(c, err) || !make_checks(c, err))
        return false;
    if (!c->touched)
        c->touched = touched_new(c->map.ntables, TOUCHED_LIMIT);
    o.spool = c->spool;
    o.touched = c->touched;
    o.changed = c->changed;
    if (!apply_start(&made, &o, err))
        return false;
    keeper_lock(c->keeper);
    c->apply = made;
    keeper_unlock(c->keeper);
    return true;
}

void live_stop(struct cutover *c)
{
    struct tail *tail;
    struct apply *apply;
    struct capture *capture;

    keeper_lock(c->keeper);
    tail = c->tail;
    apply = c->apply;
    capture = c->capture;
    c->tail = NULL;
    c->apply = NULL;
    c->capture = NULL;
    keeper_unlock(c->keeper);
    tail_stop(tail);
    if (apply && capture) {
        struct apply_stats a;

        apply_stats(apply, &a);
        capture_set_applied(capture, a.end_lsn);
    }
    apply_stop(apply);
    capture_stop(capture);
    spool_close(c->spool);
    c->spool = NULL;
    touched_free(c->touched);
    touched_free(c->changed);
    c->touched = c->changed = NULL;
    constraint_checks_release(&c->checks);
}

bool live_check(struct cutover *c, struct error *err)
{
    if (c->capture && !capture_error(c->capture, err))
        return error_push(err, "capture");
    if (c->apply && !apply_error(c->apply, err))
        return error_push(err, "replay");
    if (c->tail && !tail_error(c->tail, err))
        return error_push(err, "comparing the tail");
    return stop_check(err);
}

int64_t live_lag_bytes(struct cutover *c)
{
    struct capture_stats cs;
    struct apply_stats as;

    if (!c->capture || !c->apply)
        return -1;
    capture_stats(c->capture, &cs);
    apply_stats(c->apply, &as);
    if (!cs.server_end || !as.end_lsn)
        return -1;
    return cs.server_end > as.end_lsn ? (int64_t) (cs.server_end - as.end_lsn) : 0;
}
