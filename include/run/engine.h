/*
 * engine.h - walks the step table. Knows the journal and nothing of databases: what it must ask
 * goes through struct engine_ops.
 *
 *   TODO --begin--> BEGUN --done--> DONE --undo--> UNDONE (= TODO again)
 *
 * begin, done, failed and undone are journal records, each durable before the engine goes on. After
 * a crash: killed in a step outside the pause     the step is BEGUN: its act is called again killed
 * in the pause, not decided       the pause steps are undone, the run is back at their gate killed
 * in the pause, decided           the run goes on from `flip` (ops.decided says which, from the
 * arbiter row)
 */
#ifndef PGCUTOVER_RUN_ENGINE_H
#define PGCUTOVER_RUN_ENGINE_H

#include "run/journal.h"
#include "run/step.h"

#include <stdint.h>

enum gate_answer { GATE_GO, GATE_STOP, GATE_ABORT };

struct engine_ops {
    /* Gates, checks and hooks before and after a step. False: no-go, stop or failure. */
    bool (*before)(void *ctx, const struct step *step, enum gate_answer *answer, struct error *err);
    bool (*after)(void *ctx, const struct step *step, struct error *err);
    /* Has the switch been decided? Asked after a crash inside the pause. */
    bool (*decided)(void *ctx, bool *yes, struct error *err);
    /* The pause was undone because it overran its budget: wait, and say whether to try again. */
    bool (*retry_pause)(void *ctx, const struct error *why, bool *again, struct error *err);
};

struct engine {
    const struct step *steps; /* ends with a NULL name */
    size_t nsteps;
    const struct engine_ops *ops;
    void *ctx;
    struct journal *journal;
    enum step_state *states;
    int64_t *elapsed_us;
    int64_t *began_us; /* monotonic, of this process; 0 otherwise */
    size_t current;    /* index of the step at work, nsteps at the end */
    const char *until; /* stop after this step, or NULL */
    bool attached;     /* reattach was called for the steps done earlier */
};

void engine_init(struct engine *e, const struct step *steps, const struct engine_ops *ops,
                 void *ctx, struct journal *journal);
void engine_release(struct engine *e);
int engine_find(const struct engine *e, const char *name); /* -1 when unknown */
enum step_state engine_state(const struct engine *e, const char *name);

/* Runs what is left. ERR_STOPPED when asked to (resumable); GATE_ABORT undoes everything and
 * returns ERR_STOPPED with *aborted true. */
bool engine_run(struct engine *e, bool *aborted, struct error *err) WARN_UNUSED;
/* Has a step of the pause begun and not been undone? */
bool engine_in_pause(const struct engine *e);
/* Takes up sessions and threads of the steps that are done; engine_run does it by itself. */
bool engine_attach(struct engine *e, struct error *err) WARN_UNUSED;
/* Undoes every step that began, last first. Goes on past a failing undo and reports the first
 * failure. */
bool engine_undo(struct engine *e, struct error *err) WARN_UNUSED;
/* Forget that a step is done (its result is void): it and later ones will run again. */
bool engine_reset(struct engine *e, const char *from, struct error *err) WARN_UNUSED;

#endif
