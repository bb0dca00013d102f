/*
 * tail.h - the thread that keeps the unverified tail short: it compares the keys that replay
 * touched, all the time until the pause takes over.
 */
#ifndef PGCUTOVER_STEPS_TAIL_H
#define PGCUTOVER_STEPS_TAIL_H

#include "steps/cutover.h"
#include "verify/verify.h"

bool tail_start(struct tail **out, struct cutover *c, struct error *err) WARN_UNUSED;
void tail_stop(struct tail *t);  /* NULL is allowed */
void tail_pause(struct tail *t); /* returns when the thread is between two passes and stays there */
void tail_go_on(struct tail *t);
void tail_stats(struct tail *t, struct verifier_stats *out);
bool tail_error(struct tail *t, struct error *err); /* false when the thread failed */
struct verifier *tail_verifier(struct tail *t);     /* only while paused */
int64_t tail_estimate_us(struct tail *t);
/* Constraints that replay doesn't enforce: what changed since they were last checked in full, which
 * a thread beside the tail does again and again; and: do so soon, however little changed. */
void tail_backlog(struct tail *t, struct constraint_backlog *out);
void tail_recheck(struct tail *t);

#endif
