/* replay.c - prove, replay, verify: from the migrated clone to a green that keeps up and is known
 * to agree. */
#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "steps/keeper.h"
#include "steps/steps.h"
#include "steps/tail.h"
#include "verify/verify.h"

#include <stdlib.h>

bool step_prove(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return live_check(c, err) && live_load_map(c, err) && compare_at_one_lsn(c, COMPARE_PROVE, err);
}

static bool wait_caught_up(struct cutover *c, struct error *err)
{
    int64_t bound = playbook_bytes(cutover_section(c, "cutover"), "lag_bound");
    int64_t lag, marker;
    lsn_t lsn, from = 0;

    /* A busy neighbour database moves the server's end without a change for us: the marker gives us
     * one. */
    if (!marker_write(c->blue.pg, c->names.run, &marker, &lsn, err))
        return false;
    for (;;) {
        struct apply_stats a;
        struct capture_stats s;

        if (!live_check(c, err))
            return false;
        apply_stats(c->apply, &a);
        capture_stats(c->capture, &s);
        lag = live_lag_bytes(c);
        if (a.marker >= marker && lag >= 0 && lag <= bound)
            return true;
        if (!from)
            from = a.end_lsn;
        if (from)
            event_progress("replay", (int64_t) (a.end_lsn - from), (int64_t) (s.server_end - from),
                           "bytes");
        clock_sleep_ms(20);
    }
}

bool step_replay(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!live_start_apply(c, err) || !wait_caught_up(c, err))
        return false;
    /* From here the spool is a cache: blue's slot keeps what green has not made durable (DESIGN 8).
     */
    capture_confirm(c->capture, CONFIRM_APPLIED);
    return true;
}

bool step_replay_undo(void *ctx, struct error *err)
{
    (void) err;
    live_stop(ctx);
    return true;
}

bool step_replay_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return c->decided || step_replay(c, err);
}

static void tell_constraint(const struct cutover *c, const struct constraint_check *check)
{
    int64_t budget = playbook_us(cutover_section(c, "thresholds"), "write_pause");
    const char *name = check->fkey ? check->fkey->name : check->unique->name,
               *why = constraint_check_costly(check, &c->map);

    event_info("constraint %s holds (replay does not enforce it; checked in %lld ms)", name,
               (long long) check->elapsed_us / 1000);
    if (why && check->elapsed_us > budget / 10)
        event_info("constraint %s may take about as long of the pause's %lld ms: %s", name,
                   (long long) budget / 1000, why);
}

/* What changes from here on is checked again in the pause, or by the tail's full runs before it. */
static bool check_constraints(struct cutover *c, struct error *err)
{
    bool ok;

    if (c->tail)
        tail_pause(c->tail);
    if (c->changed)
        touched_clear(c->changed);
    ok = constraint_checks_run(&c->checks, c->green.pg, CLOCK_NONE, err);
    for (size_t i = 0; ok && i < c->checks.n; i++)
        tell_constraint(c, &c->checks.items[i]);
    if (c->tail)
        tail_go_on(c->tail);
    return ok;
}

static bool start_tail(struct cutover *c, struct error *err)
{
    struct tail *made = NULL;

    if (c->tail)
        return true;
    if (!tail_start(&made, c, err))
        return false;
    keeper_lock(c->keeper);
    c->tail = made;
    keeper_unlock(c->keeper);
    return true;
}

bool step_verify(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return live_check(c, err) && compare_at_one_lsn(c, COMPARE_VERIFY, err) &&
           check_constraints(c, err) && start_tail(c, err) && live_check(c, err);
}

bool step_verify_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct tail *tail = c->tail;

    (void) err;
    keeper_lock(c->keeper);
    c->tail = NULL;
    keeper_unlock(c->keeper);
    tail_stop(tail);
    return true;
}

/* Which keys were touched since the last comparison was known to the process that died: compare
 * everything again. */
bool step_verify_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return c->decided || step_verify(c, err);
}

/* Rehearsal: markers tell what a drain would take; the tail's estimate what a confirmation would.
 */
bool step_measure(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    int64_t worst = 0,
            until = clock_us() + playbook_us(cutover_section(c, "rehearsal"), "replay_for");
    int rounds = 0;

    do {
        int64_t marker, began = clock_us();
        lsn_t lsn;

        if (!live_check(c, err) || !marker_write(c->blue.pg, c->names.run, &marker, &lsn, err) ||
            !apply_wait_marker(c->apply, marker, clock_in_ms(60000), err))
            return false;
        if (clock_us() - began > worst)
            worst = clock_us() - began;
        rounds++;
        event_progress("measuring drains", rounds, 0, "markers");
        clock_sleep_ms(50);
    } while (!clock_passed(until));
    event_info("a drain would take at most %.1f ms (%d markers), confirming the tail about %.1f ms",
               (double) worst / 1000.0, rounds, (double) tail_estimate_us(c->tail) / 1000.0);
    return journal_add(
        c->journal, "measure",
        json_pack("{s:I, s:I, s:I}", "drain_us", (json_int_t) worst, "confirm_us",
                  (json_int_t) tail_estimate_us(c->tail), "markers", (json_int_t) rounds),
        err);
}
