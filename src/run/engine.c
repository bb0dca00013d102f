#include "run/engine.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/fault.h"
#include "sys/stop.h"

#include <stdlib.h>
#include <string.h>

#define FORWARD_MS 60000
#define FORWARD_FIRST_WAIT_MS 100
#define FORWARD_LAST_WAIT_MS 2000

const char *step_state_name(enum step_state s)
{
    static const char *const names[] = {"todo", "begun", "done", "undone"};

    return names[s];
}

int engine_find(const struct engine *e, const char *name)
{
    for (size_t i = 0; i < e->nsteps; i++)
        if (strcmp(e->steps[i].name, name) == 0)
            return (int) i;
    return -1;
}

enum step_state engine_state(const struct engine *e, const char *name)
{
    int i = engine_find(e, name);

    return i < 0 ? STEP_TODO : e->states[i];
}

static enum step_state state_of_phase(const char *phase, enum step_state before)
{
    if (strcmp(phase, "begin") == 0)
        return STEP_BEGUN;
    if (strcmp(phase, "done") == 0)
        return STEP_DONE;
    if (strcmp(phase, "undone") == 0)
        return STEP_UNDONE;
    return before; /* failed, undo: still begun */
}

static void replay_journal(struct engine *e)
{
    for (size_t i = 0; i < journal_count(e->journal); i++) {
        const json_t *rec = journal_at(e->journal, i);
        const char *type = json_string_value(json_object_get(rec, "type"));
        const char *name = json_string_value(json_object_get(rec, "step"));
        const char *phase = json_string_value(json_object_get(rec, "phase"));
        int at = name ? engine_find(e, name) : -1;

        if (!type || strcmp(type, "step") != 0 || at < 0 || !phase)
            continue;
        e->states[at] = state_of_phase(phase, e->states[at]);
        if (strcmp(phase, "done") == 0 || strcmp(phase, "failed") == 0)
            e->elapsed_us[at] = json_integer_value(json_object_get(rec, "us"));
    }
}

void engine_init(struct engine *e, const struct step *steps, const struct engine_ops *ops,
                 void *ctx, struct journal *journal)
{
    *e = (struct engine){.steps = steps, .ops = ops, .ctx = ctx, .journal = journal};
    while (steps[e->nsteps].name)
        e->nsteps++;
    e->states = xcalloc(e->nsteps, sizeof *e->states);
    e->elapsed_us = xcalloc(e->nsteps, sizeof *e->elapsed_us);
    e->began_us = xcalloc(e->nsteps, sizeof *e->began_us);
    e->current = e->nsteps;
    if (journal)
        replay_journal(e);
}

void engine_release(struct engine *e)
{
    free(e->states);
    free(e->elapsed_us);
    free(e->began_us);
    *e = (struct engine){0};
}

/* The only function that changes a step's state. */
static bool enter(struct engine *e, size_t i, const char *phase, const struct error *why,
                  struct error *err)
{
    const struct step *s = &e->steps[i];
    json_t *rec = json_pack("{s:s, s:s}", "step", s->name, "phase", phase);
    int64_t us = 0;

    if (e->began_us[i])
        us = clock_us() - e->began_us[i];
    if (strncmp(phase, "undo", 4) != 0) /* what the step took stays known when it is undone */
        e->elapsed_us[i] = us;
    json_object_set_new(rec, "us", json_integer((json_int_t) us));
    if (why) {
        json_object_set_new(rec, "error", json_string(why->message));
        json_object_set_new(rec, "code", json_string(error_code_name(why->code)));
    }
    if (!journal_add(e->journal, "step", rec, err))
        return error_push(err, "step %s", s->name);
    e->states[i] = state_of_phase(phase, e->states[i]);
    event_emit(&(struct event){
        .kind = EVENT_STEP, .step = s->name, .object = phase, .text = s->title, .elapsed_us = us});
    return true;
}

static bool undo_step(struct engine *e, size_t i, struct error *err)
{
    const struct step *s = &e->steps[i];

    e->began_us[i] = clock_us();
    if (!s->undo)
        return enter(e, i, "undone", NULL, err);
    if (!enter(e, i, "undo", NULL, err))
        return false;
    if (!s->undo(e->ctx, err))
        return error_push(err, "undo of %s", s->name);
    return enter(e, i, "undone", NULL, err);
}

/* Undo the steps that have flags, last first, past failures; the first failure is what is reported.
 */
static bool undo_flagged(struct engine *e, unsigned flags, struct error *err)
{
    bool ok = true;

    for (size_t i = e->nsteps; i-- > 0;) {
        struct error one = {0};

        if (flags && !(e->steps[i].flags & flags))
            continue;
        if (e->states[i] != STEP_BEGUN && e->states[i] != STEP_DONE)
            continue;
        if (!undo_step(e, i, &one) && ok) {
            *err = one;
            ok = false;
        }
    }
    return ok;
}

bool engine_undo(struct engine *e, struct error *err)
{
    return undo_flagged(e, 0, err);
}

bool engine_reset(struct engine *e, const char *from, struct error *err)
{
    int at = engine_find(e, from);

    if (at < 0)
        BUG("no step %s", from);
    for (size_t i = (size_t) at; i < e->nsteps; i++)
        if (e->states[i] != STEP_TODO && e->states[i] != STEP_UNDONE &&
            !enter(e, i, "undone", NULL, err))
            return false;
    return true;
}

static bool began(const struct engine *e, size_t i)
{
    return e->states[i] == STEP_BEGUN || e->states[i] == STEP_DONE;
}

/* Traffic may still be held: nobody serves for certain. */
static bool not_taken_back(struct error *err)
{
    struct error why = *err;

    error_set(err, ERR_OPERATOR, "the pause could not be taken back: %s", why.message);
    error_detail(err, "%s", why.detail);
    return error_hint(err,
                      "Nothing was decided, no data is lost. Release the traffic by hand if it "
                      "is still held, then type `pgcutover resume` to let it try again.");
}

/* A process ended inside the pause: the arbiter says on which side of the decision. */
static bool recover_pause(struct engine *e, struct error *err)
{
    bool inside = false, over = true, decided = false;

    for (size_t i = 0; i < e->nsteps; i++) {
        inside |= (e->steps[i].flags & STEP_PAUSE) && began(e, i);
        over &= !(e->steps[i].flags & STEP_FORWARD) || e->states[i] == STEP_DONE;
    }
    if (!inside || over)
        return true;
    if (!e->ops->decided(e->ctx, &decided, err))
        return false;
    if (!decided) {
        event_warn("the last pause was cut off before its decision: taking it back");
        return undo_flagged(e, STEP_PAUSE, err) || not_taken_back(err);
    }
    event_warn("the switch had been decided when the run was cut off: going on to its end");
    for (size_t i = 0; i < e->nsteps; i++)
        if (e->steps[i].flags & STEP_FORWARD)
            e->states[i] = STEP_BEGUN;
        else if (e->steps[i].flags & STEP_PAUSE)
            e->states[i] = STEP_DONE;
    return true;
}

static bool act(struct engine *e, size_t i, struct error *err)
{
    const struct step *s = &e->steps[i];
    char point[64];

    e->began_us[i] = clock_us();
    if (!enter(e, i, "begin", NULL, err))
        return false;
    snprintf(point, sizeof point, "step.%s.begin", s->name);
    if (!FAULT(point, err) || !s->act(e->ctx, err)) {
        struct error second = {0};

        error_push(err, "step %s", s->name);
        if (!enter(e, i, "failed", err, &second))
            event_warn("the journal could not be written: %s", second.message);
        return false;
    }
    snprintf(point, sizeof point, "step.%s.acted", s->name);
    return FAULT(point, err) && enter(e, i, "done", NULL, err) &&
           (snprintf(point, sizeof point, "step.%s.done", s->name), FAULT(point, err));
}

static bool is_decided(const struct engine *e)
{
    for (size_t i = 0; i < e->nsteps; i++)
        if ((e->steps[i].flags & STEP_DECIDES) && e->states[i] == STEP_DONE)
            return true;
    return false;
}

/* A step of the pause failed. Not decided: everything of the pause is taken back. */
static bool leave_pause(struct engine *e, bool *again, struct error *err)
{
    struct error undo = {0};
    struct error asked = {0};
    bool decided = is_decided(e);

    *again = false;
    stop_clear();
    if (!decided && !e->ops->decided(e->ctx, &decided, &asked)) {
        error_set(err, ERR_OPERATOR, "could not learn whether the switch was decided: %s",
                  asked.message);
        return error_hint(
            err, "Nothing is open for writes that was not open before. When both servers answer "
                 "again, type `pgcutover resume`.");
    }
    if (decided)
        return error_push(err, "after the decision");
    if (!undo_flagged(e, STEP_PAUSE, &undo)) {
        error_detail(&undo, "first failure: %s", err->message);
        *err = undo;
        return not_taken_back(err);
    }
    /* A statement that ran into the pause's deadline says so as a timeout. */
    if (err->code == ERR_TIMEOUT)
        err->code = ERR_BUDGET;
    if (err->code == ERR_BUDGET) {
        struct error why = *err;

        return e->ops->retry_pause(e->ctx, &why, again, err);
    }
    return false;
}

bool engine_attach(struct engine *e, struct error *err)
{
    for (size_t i = 0; i < e->nsteps && !e->attached; i++)
        if (e->states[i] == STEP_DONE && e->steps[i].reattach && !e->steps[i].reattach(e->ctx, err))
            return error_push(err, "taking up %s again", e->steps[i].name);
    e->attached = true;
    return true;
}

bool engine_in_pause(const struct engine *e)
{
    for (size_t i = 0; i < e->nsteps; i++)
        if ((e->steps[i].flags & STEP_PAUSE) && began(e, i))
            return true;
    return false;
}

/* After the decision there is one way, and clients wait on it: a dropped connection or a pooler
 * that is just starting must not end it, nor may somebody's Ctrl-C. */
static bool go_forward(struct engine *e, size_t i, struct error *err)
{
    int64_t deadline = clock_in_ms(FORWARD_MS);
    int wait_ms = FORWARD_FIRST_WAIT_MS;

    while (!clock_passed(deadline)) {
        event_warn("decided, but %s failed: %s; trying again", e->steps[i].name, err->message);
        clock_sleep_ms(wait_ms);
        wait_ms = wait_ms * 2 < FORWARD_LAST_WAIT_MS ? wait_ms * 2 : FORWARD_LAST_WAIT_MS;
        stop_clear();
        error_clear(err);
        if (act(e, i, err))
            return true;
    }
    if (err->code != ERR_OPERATOR) {
        struct error why = *err;

        error_set(err, ERR_OPERATOR, "the switch is decided and not finished: %s", why.message);
        error_detail(err, "%s", why.detail);
        error_hint(
            err, "Traffic may still be held. Mend what is named, then type `pgcutover resume` (or "
                 "`pgcutover rollback` again, if that was it): it goes on from here.");
    }
    return false;
}

static bool forward_decided(struct engine *e, const struct step *s)
{
    struct error ignored = {0};
    bool decided = is_decided(e);

    if (!(s->flags & STEP_FORWARD))
        return false;
    stop_clear();
    return decided || (e->ops->decided(e->ctx, &decided, &ignored) && decided);
}

static bool act_to_the_end(struct engine *e, size_t i, struct error *err)
{
    if (act(e, i, err))
        return true;
    return forward_decided(e, &e->steps[i]) && go_forward(e, i, err);
}

static size_t first_pause_step(const struct engine *e)
{
    for (size_t i = 0; i < e->nsteps; i++)
        if (e->steps[i].flags & STEP_PAUSE)
            return i;
    BUG("the step table has no pause");
}

static bool is_until(const struct engine *e, const struct step *s)
{
    return e->until && strcmp(e->until, s->name) == 0;
}

bool engine_run(struct engine *e, bool *aborted, struct error *err)
{
    size_t i = 0;

    *aborted = false;
    if (!recover_pause(e, err) || !engine_attach(e, err))
        return false;
    while (i < e->nsteps) {
        const struct step *s = &e->steps[i];
        enum gate_answer answer = GATE_GO;
        bool again = false;

        e->current = i;
        if (e->states[i] == STEP_DONE) {
            if (is_until(e, s))
                return error_set(err, ERR_STOPPED,
                                 "stopped after %s, as asked (it was done before)", s->name);
            i++;
            continue;
        }
        if (!(s->flags & (STEP_PAUSE | STEP_FORWARD)) && !stop_check(err))
            return false;
        if (e->ops->before && !e->ops->before(e->ctx, s, &answer, err)) {
            if (!(s->flags & STEP_PAUSE) || !engine_in_pause(e))
                return false;
        } else if (answer == GATE_STOP) {
            error_set(err, ERR_STOPPED, "stopped at the gate before %s", s->name);
            return false;
        } else if (answer == GATE_ABORT) {
            *aborted = true;
            stop_clear();
            return engine_undo(e, err);
        } else if (act_to_the_end(e, i, err) && (!e->ops->after || e->ops->after(e->ctx, s, err))) {
            if (is_until(e, s))
                return error_set(err, ERR_STOPPED, "stopped after %s, as asked", s->name);
            i++;
            continue;
        }
        if (!(s->flags & STEP_PAUSE))
            return false;
        if (!leave_pause(e, &again, err) || !again)
            return false;
        error_clear(err);
        i = first_pause_step(e);
    }
    e->current = e->nsteps;
    return true;
}
