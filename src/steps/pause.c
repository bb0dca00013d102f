/*
 * pause.c - hold, fence, drain, confirm, flip, open: the pause in the order of DESIGN section 3, in
 * either direction (struct pause says from which side to which). Everything that can be made ready
 * before the hold is made ready before it. Until open's COMMIT the death of this process, or of its
 * host, leaves the serving side to itself.
 */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/fence.h"
#include "pg/position.h"
#include "pg/sequence.h"
#include "pg/trigger.h"
#include "steps/keeper.h"
#include "steps/pause.h"
#include "steps/pause_guard.h"
#include "steps/recheck.h"
#include "steps/steps.h"
#include "steps/tail.h"
#include "sys/stop.h"

#include <stdlib.h>
#include <string.h>

#define GUARD_READY_MS 10000
#define GUARD_GRACE_US 500000
#define WARM_ROUNDS 3
#define US_PER_KEY 60
#define WARM_LIMIT_MS 10000
#define FENCE_IDLE_GRACE_MS 1000

void pause_direction(struct cutover *c, bool back)
{
    struct pause *p = &c->pause;

    p->from = back ? &c->green : &c->blue;
    p->to = back ? &c->blue : &c->green;
    p->from_side = back ? TRAFFIC_GREEN : TRAFFIC_BLUE;
    p->to_side = back ? TRAFFIC_BLUE : TRAFFIC_GREEN;
}

static bool forward(const struct cutover *c)
{
    return c->pause.from == &c->blue;
}

static const char *decided_fact(const struct cutover *c)
{
    return forward(c) ? "decided" : "rollback_decided";
}

void pause_part(struct cutover *c, const char *part)
{
    event_emit(&(struct event){
        .kind = EVENT_PAUSE, .object = part, .elapsed_us = clock_us() - c->pause.began_us});
}

bool pause_in_budget(struct cutover *c, const char *before, struct error *err)
{
    if (!clock_passed(c->pause.deadline_us))
        return stop_check(err);
    error_set(err, ERR_BUDGET, "the pause overran its budget of %s before %s",
              playbook_str(cutover_section(c, "thresholds"), "write_pause"), before);
    return error_hint(err, "It was undone; %s serves.", c->pause.from->name);
}

static void set_deadlines(struct cutover *c, int64_t deadline)
{
    if (c->blue.pg)
        pg_set_deadline(c->blue.pg, deadline);
    if (c->green.pg)
        pg_set_deadline(c->green.pg, deadline);
    if (c->pause.l)
        pg_set_deadline(c->pause.l, deadline);
}

/* A lag seen before the pause must stop it: what is slow now would be slow inside. */
static bool warm_replay(struct cutover *c, struct error *err)
{
    int64_t limit = playbook_us(cutover_section(c, "thresholds"), "write_pause") / 4;
    int64_t deadline = clock_in_ms(WARM_LIMIT_MS);
    int good = 0;

    while (good < WARM_ROUNDS) {
        int64_t n, began = clock_us();
        lsn_t lsn;
        struct verifier_stats v;

        if (!live_check(c, err) || !marker_write(c->blue.pg, c->names.run, &n, &lsn, err) ||
            !apply_wait_marker(c->apply, n, clock_in_ms(WARM_LIMIT_MS), err))
            return false;
        tail_stats(c->tail, &v);
        /* Tables that can only be compared as a whole don't count: confirm takes what time there is
         * for them. */
        good = clock_us() - began < limit && v.waiting * US_PER_KEY < limit ? good + 1 : 0;
        if (good < WARM_ROUNDS && clock_passed(deadline)) {
            error_set(err, ERR_BUDGET,
                      "replay or the comparison of the tail is too slow for a pause now: a marker "
                      "took %lld ms, %lld keys wait",
                      (long long) (clock_us() - began) / 1000, (long long) v.waiting);
            return error_hint(err, "Wait for less load, or raise [thresholds] write_pause.");
        }
    }
    return true;
}

static bool same_catalog(struct cutover *c, struct error *err)
{
    struct pause *p = &c->pause;
    char now[40];

    if (!catalog_fingerprint(p->l, now, err))
        return false;
    if (strcmp(now, p->from->cat.fingerprint) == 0)
        return true;
    error_set(err, ERR_NOGO, "%s's schema changed while the run was on", p->from->name);
    return error_hint(
        err,
        forward(c) ? "What was cloned and mapped is not what is there: `pgcutover abort %s`, then "
                     "run anew."
                   : "Type `pgcutover rollback %s` again: it reads the catalog anew.",
        c->names.run);
}

static bool ready_sessions(struct cutover *c, struct error *err)
{
    struct pause *p = &c->pause;

    pg_close(p->l);
    p->l = NULL;
    return side_connect(c, &c->blue, err) && side_connect(c, &c->green, err) &&
           pg_end_worker(p->from->pg, c->names.run, "fence", clock_in_ms(5000), err) &&
           side_open(c, p->from, PG_PLAIN, "fence", &p->l, err) && fence_warm(p->l, err) &&
           same_catalog(c, err);
}

static bool hold_all(struct cutover *c, struct error *err)
{
    for (size_t i = 0; i < c->ntraffic; i++)
        if (traffic_can_hold(c->traffic[i]) &&
            !traffic_hold(c->traffic[i], c->pause.deadline_us, err))
            return error_push(err, "[traffic %s]", traffic_name(c->traffic[i]));
    return true;
}

bool step_hold(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct pause *p = &c->pause;
    int64_t budget = playbook_us(cutover_section(c, "thresholds"), "write_pause");

    if (!p->from)
        pause_direction(c, false);
    if (!cutover_open_traffic(c, err) || !ready_sessions(c, err) ||
        (forward(c) && !warm_replay(c, err)))
        return false;
    if (!pguard_start(&p->guard, c, clock_in_ms(GUARD_READY_MS), err) ||
        !arbiter_arm(p->from->pg, c->names.run, err))
        return false;
    if (c->tail)
        tail_pause(c->tail);
    if (!live_check(c, err) || (c->tail && forward(c) && !constraints_warm(c, err)))
        return false;
    if (!journal_relax(c->journal, true, err) ||
        !pguard_arm(p->guard, budget + GUARD_GRACE_US, err))
        return false;
    p->began_us = clock_us();
    p->deadline_us = p->began_us + budget;
    set_deadlines(c, p->deadline_us);
    if (!FAULT("pause.armed", err) || !hold_all(c, err))
        return false;
    pause_part(c, "held");
    return FAULT("pause.held", err);
}

/* Every section is tried: one pooler that does not answer must not keep the others' clients
 * waiting. */
bool pause_release(struct cutover *c, enum traffic_side side, struct error *err)
{
    bool ok = true;

    for (size_t i = 0; i < c->ntraffic; i++) {
        struct error one = {0};

        if (traffic_release(c->traffic[i], side, &one))
            continue;
        if (ok)
            *err = one;
        ok = false;
    }
    return ok;
}

/* Traffic that is still held stays the guard's business: it sees our end of the pipe closed, and
 * acts. */
bool step_hold_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct pause *p = &c->pause;
    bool ok;

    if (!p->from)
        pause_direction(c, false);
    set_deadlines(c, CLOCK_NONE);
    ok = cutover_open_traffic(c, err) && pause_release(c, p->from_side, err);
    if (ok)
        pguard_close(p->guard);
    else
        pguard_abandon(p->guard);
    p->guard = NULL;
    if (c->tail)
        tail_go_on(c->tail);
    return journal_relax(c->journal, false, ok ? err : &(struct error){0}) && ok;
}

bool step_fence(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct pause *p = &c->pause;
    const struct playbook_section *s = cutover_section(c, "fence");
    struct fence_options o = {
        .run = c->names.run,
        .deadline_us = p->deadline_us,
        .lock_timeout_ms = (int) (playbook_us(s, "lock_timeout") / 1000),
        .deadlock_timeout_ms = (int) (playbook_us(s, "deadlock_timeout") / 1000),
        .idle_limit_ms = (p->deadline_us - clock_us()) / 1000 + FENCE_IDLE_GRACE_MS};

    if (o.idle_limit_ms < FENCE_IDLE_GRACE_MS)
        o.idle_limit_ms = FENCE_IDLE_GRACE_MS;
    if (!fence_lock(p->l, p->from->pg, &p->from->cat, &o, err))
        return false;
    pause_part(c, "locked");
    /* Whoever wrote has committed: its commit record lies below this. */
    if (!pg_current_lsn(p->from->pg, &p->locked_lsn, err) || !same_catalog(c, err) ||
        !fence_triggers(p->l, &p->from->cat, err) || !fence_leftovers(p->from->pg, &o, err))
        return false;
    pause_part(c, "fenced");
    return FAULT("pause.fenced", err) && pause_in_budget(c, "drain", err);
}

bool step_fence_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct pause *p = &c->pause;

    if (!p->from)
        pause_direction(c, false);
    if (p->l)
        pg_rollback(p->l);
    pg_close(p->l);
    p->l = NULL;
    set_deadlines(c, CLOCK_NONE);
    return side_connect(c, p->from, err) &&
           pg_end_worker(p->from->pg, c->names.run, "fence", clock_in_ms(5000), err);
}

bool pause_carry_sequences(struct cutover *c, struct error *err)
{
    struct sequence_pair *pairs = xcalloc(c->map.nsequences + 1, sizeof *pairs);
    size_t n = 0;
    int moved = 0;
    bool ok;

    for (size_t i = 0; i < c->map.nsequences; i++) {
        const struct map_sequence *s = &c->map.sequences[i];

        if (s->target)
            pairs[n++] = forward(c) ? (struct sequence_pair){s->source, s->target}
                                    : (struct sequence_pair){s->target, s->source};
    }
    ok = sequence_carry(c->pause.from->pg, c->pause.to->pg, pairs, n, &moved, err);
    free(pairs);
    return ok;
}

/* The fence's proof by the log itself: nothing but markers was committed after the locks were
 * granted. */
static bool nothing_slipped_through(struct cutover *c, struct error *err)
{
    struct apply_stats a;
    char change[LSN_SIZE], lock[LSN_SIZE];

    apply_stats(c->apply, &a);
    if (a.last_change_lsn <= c->pause.locked_lsn)
        return true;
    error_set(err, ERR_NOGO, "a write was committed at %s, after blue was locked at %s",
              lsn_str(change, a.last_change_lsn), lsn_str(lock, c->pause.locked_lsn));
    return error_hint(
        err,
        "Something writes past locks and triggers (session_replication_role = replica?). Find it, "
        "then type `pgcutover resume %s`.",
        c->names.run);
}

bool step_drain(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    lsn_t lsn;

    if (!marker_write(c->blue.pg, c->names.run, &c->pause.marker, &lsn, err) ||
        !FAULT("drain.marked", err) ||
        !apply_wait_marker(c->apply, c->pause.marker, c->pause.deadline_us, err) ||
        !nothing_slipped_through(c, err) || !pause_carry_sequences(c, err))
        return false;
    pause_part(c, "drained");
    return FAULT("pause.drained", err) && pause_in_budget(c, "confirm", err);
}

bool step_confirm(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    int64_t compared = 0, differing = 0;
    char *text = NULL;
    bool ok = verifier_final(tail_verifier(c->tail), c->pause.deadline_us, &compared, &differing,
                             &text, err);

    if (ok && differing > 0) {
        error_set(err, ERR_NOGO, "%lld rows of the tail differ between blue and green",
                  (long long) differing);
        ok = error_detail(err, "%s", text ? text : "");
    } else if (ok && text) {
        event_warn("%s", text);
    }
    free(text);
    c->pause.confirmed_keys = compared;
    if (!ok || !constraints_hold(c, c->pause.deadline_us, err))
        return false;
    pause_part(c, "confirmed");
    return FAULT("pause.confirmed", err) && pause_in_budget(c, "flip", err);
}

bool pause_switch(struct cutover *c, enum traffic_side side, int64_t deadline_us, struct error *err)
{
    bool ok = true;

    for (size_t i = 0; i < c->ntraffic; i++) {
        struct error one = {0};

        if (traffic_switch(c->traffic[i], side, deadline_us, &one) &&
            traffic_verify(c->traffic[i], side, &one))
            continue;
        error_push(&one, "[traffic %s]", traffic_name(c->traffic[i]));
        if (ok)
            *err = one;
        ok = false;
    }
    return ok;
}

bool step_flip(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!pause_in_budget(c, "flip", err) ||
        !pause_switch(c, c->pause.to_side, c->pause.deadline_us, err))
        return false;
    pause_part(c, "flipped");
    return FAULT("pause.flipped", err) && pause_in_budget(c, "open", err);
}

bool step_flip_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!c->pause.from)
        pause_direction(c, false);
    return cutover_open_traffic(c, err) &&
           pause_switch(c, c->pause.from_side, clock_in_ms(30000), err);
}

/* Asked when the answer to COMMIT was lost, after a crash, and whenever a pause is left: the
 * arbiter row is revoked if it still can be, else it says what was decided. */
bool pause_decided(void *ctx, bool *yes, struct error *err)
{
    struct cutover *c = ctx;
    char state[32];
    bool won = false;

    if (!c->pause.from)
        pause_direction(c, false);
    *yes = journal_get_fact(c->journal, decided_fact(c)) != NULL;
    if (*yes)
        return true;
    if (c->pause.from->pg)
        pg_set_deadline(c->pause.from->pg, CLOCK_NONE);
    if (!side_connect(c, c->pause.from, err) ||
        !arbiter_swap(c->pause.from->pg, c->names.run, "armed", "revoked", &won, err) ||
        !arbiter_read(c->pause.from->pg, c->names.run, state, err))
        return false;
    *yes = strcmp(state, "committing") == 0;
    if (*yes) {
        if (forward(c))
            c->decided = true;
        return journal_fact(c->journal, decided_fact(c), "arbiter", err);
    }
    return true;
}

/* Without the event trigger somebody may have made a table after the locks were taken: neither
 * fenced nor captured. */
static bool unguarded_catalog(struct cutover *c, struct error *err)
{
    return !forward(c) || journal_get_fact(c->journal, "guarded") || !c->pause.l ||
           same_catalog(c, err);
}

static bool decide(struct cutover *c, struct error *err)
{
    enum fence_decision d = FENCE_REVOKED;
    struct error sent = {0};
    bool yes = false;

    if (!pause_in_budget(c, "open", err) || !unguarded_catalog(c, err) ||
        !FAULT("open.before-commit", err))
        return false;
    if (!c->pause.l || !fence_commit(c->pause.l, c->names.run, &d, &sent) || d == FENCE_UNKNOWN) {
        if (!pause_decided(c, &yes, err))
            return false;
        d = yes ? FENCE_COMMITTED : FENCE_REVOKED;
    }
    if (d == FENCE_REVOKED) {
        error_set(err, ERR_BUDGET,
                  "the switch was revoked before it was decided (the guard gave up on us, or the "
                  "fence's session was lost)");
        return error_hint(err, "%s serves; it was never closed for good.", c->pause.from->name);
    }
    if (forward(c))
        c->decided = true;
    stop_clear();
    return FAULT("open.committed", err) &&
           journal_fact(c->journal, decided_fact(c), "committed", err);
}

/* Where the new side's own writes begin: counted from here by rollback. */
static bool note_opening(struct cutover *c, struct error *err)
{
    char text[LSN_SIZE];
    lsn_t lsn;

    if (!forward(c) || journal_get_fact(c->journal, "open_lsn"))
        return true;
    return pg_current_lsn(c->green.pg, &lsn, err) &&
           journal_fact(c->journal, "open_lsn", lsn_str(text, lsn), err);
}

bool step_open(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!journal_get_fact(c->journal, decided_fact(c)) && !decide(c, err))
        return false;
    pause_part(c, "decided");
    set_deadlines(c, CLOCK_NONE);
    if (!side_connect(c, c->pause.to, err) || !note_opening(c, err) ||
        !FAULT("open.before-lift", err) || !triggers_restore(c->pause.to->pg, c->names.run, err) ||
        !fence_open(c->pause.to->pg, err))
        return false;
    pause_part(c, "opened");
    return FAULT("pause.opened", err);
}

static void describe_traffic(struct cutover *c, struct strbuf *out)
{
    struct error err = {0};

    if (!cutover_open_traffic(c, &err))
        strbuf_addf(out, "traffic: %s\n", err.message);
    for (size_t i = 0; i < c->ntraffic; i++)
        traffic_describe(c->traffic[i], out);
}

void describe_hold(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out, "the guard process started; pause budget %s\n",
                playbook_str(cutover_section(c, "thresholds"), "write_pause"));
    describe_traffic(c, out);
}

void describe_fence(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out,
                "on blue, one transaction: LOCK TABLE ... IN SHARE ROW EXCLUSIVE MODE (%zu "
                "tables), catalog "
                "compared, CREATE TRIGGER on each; not committed yet\n",
                c->blue.cat.ntables);
}

void describe_drain(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out,
                "on blue: UPDATE pgcutover.marker; on green: wait for it; %zu sequences set to the "
                "further one\n",
                c->blue.cat.nsequences);
}

void describe_open(void *ctx, struct strbuf *out)
{
    (void) ctx;
    strbuf_addstr(out,
                  "on blue: arbiter armed -> committing, COMMIT of the fence: from here only "
                  "rollback goes back\n"
                  "on green: CREATE OR REPLACE FUNCTION pgcutover.fence() that lets writes pass\n");
}
