/*
 * step.h - what a step is: a row of a table. The engine walks the table, `plan` prints it, and the
 * README's list of steps is it. The unit of resume and undo.
 *
 * act must be idempotent: it may be called again after it was killed at any point. It believes the
 * servers' catalogs, the journal says what to look for. undo takes back whatever act may have done,
 * also when act never ended.
 */
#ifndef PGCUTOVER_RUN_STEP_H
#define PGCUTOVER_RUN_STEP_H

#include "base/strbuf.h"

enum step_flag {
    STEP_PAUSE = 1,   /* inside the pause: all of them are undone together, or none */
    STEP_DECIDES = 2, /* its success is the point of no return */
    STEP_FORWARD = 4  /* after the decision: repeated until it succeeds, never undone */
};

struct step {
    const char *name;
    const char *title;      /* what it will do, in a line */
    const char *undo_title; /* or NULL when nothing needs undoing */
    unsigned flags;
    bool (*act)(void *ctx, struct error *err);
    bool (*undo)(void *ctx, struct error *err); /* or NULL */
    bool (*reattach)(void *ctx,
                     struct error *err); /* or NULL: sessions and threads of a step done earlier */
    void (*describe)(void *ctx,
                     struct strbuf *out); /* or NULL: statements and commands, for `plan` */
};

enum step_state { STEP_TODO, STEP_BEGUN, STEP_DONE, STEP_UNDONE };
const char *step_state_name(enum step_state s);

#endif
