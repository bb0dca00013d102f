/*
 * recheck.h - the thread that checks in full again what replay doesn't enforce, from time to time,
 * so that few changed keys are left for the pause. It belongs to the tail (steps/tail.h), which
 * starts, pauses and stops it. It costs green about a tenth of the time at most.
 */
#ifndef PGCUTOVER_STEPS_RECHECK_H
#define PGCUTOVER_STEPS_RECHECK_H

#include "steps/cutover.h"

struct recheck;

/* After the first full run of c->checks. All others take NULL. */
bool recheck_start(struct recheck **out, struct cutover *c, struct error *err) WARN_UNUSED;
void recheck_stop(struct recheck *r);
/* Cancels what runs; on return all keys that it had taken are in c->changed again. */
void recheck_pause(struct recheck *r);
void recheck_go_on(struct recheck *r);
void recheck_want(struct recheck *r);                     /* soon, however little changed */
bool recheck_error(struct recheck *r, struct error *err); /* false when the thread failed */
void recheck_backlog(struct recheck *r, struct constraint_backlog *out);

/* While the tail is paused: the checks for what changed since their last full run. */
bool constraints_hold(struct cutover *c, int64_t deadline_us, struct error *err) WARN_UNUSED;
/* The same before anybody is held: an orphan is found in time, and so is a check that would take
 * too much of the pause (ERR_BUDGET; it is made in full soon, then). */
bool constraints_warm(struct cutover *c, struct error *err) WARN_UNUSED;

#endif
