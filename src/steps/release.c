/* release.c - traffic goes on to the side that was opened; then what the run no longer needs is
 * taken away. */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/fence.h"
#include "pg/front.h"
#include "pg/position.h"
#include "steps/commands.h"
#include "steps/pause.h"
#include "steps/pause_guard.h"
#include "steps/steps.h"

#include <stdlib.h>
#include <string.h>

#define SWITCH_MS 30000
#define DROP_FENCE_MS 20000
#define FRONT_DOOR_S 5

static bool one_traffic_on(struct traffic *t, enum traffic_side side, struct error *err)
{
    struct error disagrees = {0};

    if (!traffic_verify(t, side, &disagrees) &&
        (!traffic_switch(t, side, clock_in_ms(SWITCH_MS), err) || !traffic_verify(t, side, err)))
        return false;
    return traffic_release(t, side, err);
}

/* After a crash the driver's state may be anything: idempotently to the side that is open. Every
 * section is tried. */
static bool traffic_on(struct cutover *c, struct error *err)
{
    bool ok = true;

    for (size_t i = 0; i < c->ntraffic; i++) {
        struct error one = {0};

        if (one_traffic_on(c->traffic[i], c->pause.to_side, &one))
            continue;
        error_push(&one, "[traffic %s]", traffic_name(c->traffic[i]));
        if (ok)
            *err = one;
        ok = false;
    }
    return ok;
}

static bool move_application(struct cutover *c, const char *key, struct error *err)
{
    for (size_t i = 0; i < playbook_count(c->pb, "deploy"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "deploy", i);

        if (!command_run(c, s, key, traffic_side_name(c->pause.to_side), err))
            return error_push(err, "[deploy %s] %s", playbook_section_name(s), key);
    }
    return true;
}

/* As a client would, through the door that leads to the side that serves now. Nothing is undone for
 * it. */
static void probe_front_door(struct cutover *c)
{
    const struct pause *p = &c->pause;
    bool two = strcmp(playbook_str(cutover_section(c, "app"), "compatible"), "switch") == 0;
    const char *key = two && p->to_side == TRAFFIC_GREEN ? "new_front" : "front";

    for (size_t i = 0; i < playbook_count(c->pb, "traffic"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "traffic", i);
        const char *door = playbook_str(s, key);
        struct error err = {0};
        uint64_t id = 0;

        if (!door)
            continue;
        if (!front_system_id(door, FRONT_DOOR_S, &id, &err))
            event_warn("[traffic %s] %s: %s", playbook_section_name(s), key, err.message);
        else if (id != p->to->identity.system_id)
            event_warn("[traffic %s] %s does not lead to %s", playbook_section_name(s), key,
                       p->to->name);
        else
            event_info("[traffic %s] %s leads to %s", playbook_section_name(s), key, p->to->name);
    }
}

static void retire_traffic(struct cutover *c)
{
    struct error err = {0};

    for (size_t i = 0; i < c->ntraffic; i++)
        if (!traffic_retire(c->traffic[i], &err)) {
            event_warn("[traffic %s]: %s", traffic_name(c->traffic[i]), err.message);
            error_clear(&err);
        }
}

static bool end_pause(struct cutover *c, struct error *err)
{
    struct pause *p = &c->pause;
    int64_t us = p->began_us ? clock_us() - p->began_us : 0;

    pause_part(c, "released");
    pguard_close(p->guard);
    p->guard = NULL;
    pg_close(p->l);
    p->l = NULL;
    if (!journal_relax(c->journal, false, err))
        return false;
    if (us)
        event_info("traffic was held for %.1f ms", (double) us / 1000.0);
    return journal_add(c->journal, "pause",
                       json_pack("{s:I, s:I}", "us", (json_int_t) us, "confirmed_keys",
                                 (json_int_t) p->confirmed_keys),
                       err);
}

/* What is left to tidy does not matter to anybody's data: say it and go on. */
static void tidy(bool ok, struct error *err, const char *what)
{
    if (!ok)
        event_warn("%s: %s; `pgcutover finish` will try again", what, err->message);
    error_clear(err);
}

static void tidy_blue(struct cutover *c)
{
    struct error err = {0};
    bool end =
        strcmp(playbook_str(cutover_section(c, "fence"), "leftover_sessions"), "terminate") == 0;
    int ended = 0;

    if (!side_connect(c, &c->blue, &err)) {
        tidy(false, &err, "blue can't be reached to tidy it");
        return;
    }
    tidy(slot_drop(c->blue.pg, c->names.slot, &err), &err, "blue's slot");
    tidy(publication_drop(c->blue.pg, c->names.publication, &err), &err, "blue's publication");
    tidy(guard_drop(c->blue.pg, c->names.run, &err), &err, "blue's guard");
    if (end)
        tidy(fence_end_sessions(c->blue.pg, &ended, &err), &err, "sessions left on blue");
    if (ended)
        event_info("%d client sessions that were left on blue were ended", ended);
}

static void tidy_after_switch(struct cutover *c)
{
    struct error err = {0};
    const char *text = journal_get_fact(c->journal, "open_lsn");
    lsn_t lsn = 0;

    live_stop(c);
    tidy_blue(c);
    if (text && lsn_parse(text, &lsn)) {
        tidy(fact_set(c->green.pg, c->names.run, "open_lsn", text, &err), &err, "green's facts");
        tidy(slot_advance(c->green.pg, c->names.back_slot, lsn, &err), &err, "green's slot");
    }
    tidy(fence_drop(c->green.pg, clock_in_ms(DROP_FENCE_MS), &err), &err, "green's open fence");
}

bool step_release(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!c->pause.from)
        pause_direction(c, false);
    /* Only the side that is open is needed now: the other one may be why we switch. */
    if (!cutover_open_traffic(c, err) || !side_connect(c, &c->green, err) ||
        !FAULT("release.before", err) || !traffic_on(c, err) || !move_application(c, "move", err) ||
        !end_pause(c, err) || !journal_fact(c->journal, "released", "yes", err) ||
        !FAULT("release.released", err))
        return false;
    probe_front_door(c);
    tidy_after_switch(c);
    return true;
}

void describe_release(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    for (size_t i = 0; i < playbook_count(c->pb, "deploy"); i++)
        if (playbook_str(playbook_at(c->pb, "deploy", i), "move"))
            strbuf_addf(out, "run: %s\n", playbook_str(playbook_at(c->pb, "deploy", i), "move"));
    strbuf_addstr(out, "traffic: release\non blue: slot, publication and event trigger dropped; "
                       "the fence stands\n");
}

bool step_rollback_release(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    pause_direction(c, true);
    if (!cutover_open_traffic(c, err) || !side_connect(c, &c->blue, err) || !traffic_on(c, err) ||
        !move_application(c, "move_back", err) || !end_pause(c, err) ||
        !FAULT("rollback.released", err))
        return false;
    probe_front_door(c);
    retire_traffic(c);
    return true;
}

/* Green stays fenced and keeps what it took; what was made there for the way back is of no use any
 * more. */
static void tidy_green(struct cutover *c)
{
    struct error err = {0};
    bool ok = side_connect(c, &c->green, &err) &&
              slot_drop(c->green.pg, c->names.back_slot, &err) &&
              publication_drop(c->green.pg, c->names.back_publication, &err) &&
              identity_restore(c->green.pg, c->names.run, &err) &&
              apply_drop_origin(c->green.pg, c->names.run, &err);

    if (!ok)
        event_warn("green could not be tidied: %s (look for slot %s there: it holds WAL)",
                   err.message, c->names.back_slot);
}

/* Blue serves again: everything of the run on it goes. */
bool step_rollback_tidy(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    tidy_green(c);
    return side_connect(c, &c->blue, err) &&
           fence_drop(c->blue.pg, clock_in_ms(DROP_FENCE_MS), err) &&
           slot_drop(c->blue.pg, c->names.slot, err) &&
           publication_drop(c->blue.pg, c->names.publication, err) &&
           identity_restore(c->blue.pg, c->names.run, err) &&
           guard_drop(c->blue.pg, c->names.run, err) &&
           facts_uninstall(c->blue.pg, c->names.run, err);
}

static bool clean_green(struct cutover *c, struct error *err)
{
    return slot_drop(c->green.pg, c->names.back_slot, err) &&
           publication_drop(c->green.pg, c->names.back_publication, err) &&
           identity_restore(c->green.pg, c->names.run, err) &&
           fence_drop(c->green.pg, clock_in_ms(DROP_FENCE_MS), err) &&
           apply_drop_origin(c->green.pg, c->names.run, err) &&
           facts_uninstall(c->green.pg, c->names.run, err);
}

static bool unfence(struct cutover *c, struct error *err)
{
    return fence_drop(c->blue.pg, clock_in_ms(DROP_FENCE_MS), err) &&
           facts_uninstall(c->blue.pg, c->names.run, err);
}

/* After release. Blue's fence goes only when asked for: a forgotten client must not write to a side
 * that nobody reads. */
bool cutover_finish(struct cutover *c, bool unfence_blue, struct error *err)
{
    const char *ended = rundir_ended(c->journal);

    if (ended)
        return !unfence_blue || (side_connect(c, &c->blue, err) && unfence(c, err));
    if (!journal_fact(c->journal, "finishing", "yes", err) || !side_connect(c, &c->blue, err) ||
        !side_connect(c, &c->green, err) || !clean_green(c, err) ||
        !slot_drop(c->blue.pg, c->names.slot, err) ||
        !publication_drop(c->blue.pg, c->names.publication, err) ||
        !identity_restore(c->blue.pg, c->names.run, err) ||
        !guard_drop(c->blue.pg, c->names.run, err) || (unfence_blue && !unfence(c, err)) ||
        !cutover_open_traffic(c, err))
        return false;
    retire_traffic(c);
    return rundir_end(c->journal, "finished", err);
}

/* Before open: every step's undo, last first; then blue is as it was. */
bool cutover_abort(struct cutover *c, struct error *err)
{
    bool decided = false;

    if (!pause_decided(c, &decided, err))
        return false;
    if (decided) {
        error_set(err, ERR_NOGO, "run %s has been switched: green serves", c->names.run);
        return error_hint(err, "`pgcutover rollback %s` goes back.", c->names.run);
    }
    /* From here the run can only be aborted again: half of it may be gone. */
    return journal_fact(c->journal, "aborting", "yes", err) && engine_undo(&c->engine, err) &&
           rundir_end(c->journal, "aborted", err);
}
