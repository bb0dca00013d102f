/*
 * pause_guard.h - the small process that watches over a pause. If the run dies (its pipe closes) or
 * stalls past the budget, the guard commits `revoked` into the arbiter row on the serving side, and
 * only when that is certain points traffic back and releases it. A run that wakes up later finds
 * `revoked` and can't open (DESIGN 3).
 */
#ifndef PGCUTOVER_STEPS_PAUSE_GUARD_H
#define PGCUTOVER_STEPS_PAUSE_GUARD_H

#include "steps/cutover.h"

/* Starts it for c->pause (from, to) and waits until it says that its sessions are open. */
bool pguard_start(struct pguard **out, struct cutover *c, int64_t ready_deadline_us,
                  struct error *err) WARN_UNUSED;
/* The pause began: from now on the guard's clock runs; limit_us after now it gives up on us. */
bool pguard_arm(struct pguard *g, int64_t limit_us, struct error *err) WARN_UNUSED;
/* The pause is over, one way or the other: the guard ends without acting. */
void pguard_disarm(struct pguard *g);
void pguard_close(struct pguard *g); /* disarms and waits for its end; NULL is allowed */
/* Our end closed without a word: as after our death, the guard gives the traffic back if it may. */
void pguard_abandon(struct pguard *g); /* NULL is allowed */

/* The guard process itself: `pgcutover guard-process RUNDIR FROM FD_IN FD_OUT`, not for users. */
int pguard_main(const char *run_dir, const char *from, int fd_in, int fd_out);

#endif
