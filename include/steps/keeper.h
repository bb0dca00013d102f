/*
 * keeper.h - the thread that keeps a live run's surroundings true, several times a second: tells
 * capture what the target has made durable, asks for a stop when a thread failed, rewrites
 * status.json each second, passes events to it.
 */
#ifndef PGCUTOVER_STEPS_KEEPER_H
#define PGCUTOVER_STEPS_KEEPER_H

#include "steps/cutover.h"

bool keeper_start(struct keeper **out, struct cutover *c, struct error *err) WARN_UNUSED;
void keeper_stop(struct keeper *k); /* NULL is allowed; writes status.json a last time */
/* Around making or ending the parts that the keeper reads. */
void keeper_lock(struct keeper *k); /* NULL is allowed */
void keeper_unlock(struct keeper *k);

/* status.json as an object, from what this process knows. Caller decrefs. */
json_t *keeper_status(struct cutover *c);

#endif
