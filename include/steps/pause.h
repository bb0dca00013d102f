/* pause.h - what the switch and the rollback share of the pause. */
#ifndef PGCUTOVER_STEPS_PAUSE_H
#define PGCUTOVER_STEPS_PAUSE_H

#include "steps/cutover.h"

void pause_direction(struct cutover *c, bool back);
bool pause_in_budget(struct cutover *c, const char *before,
                     struct error *err) WARN_UNUSED; /* ERR_BUDGET */
void pause_part(struct cutover *c,
                const char *part); /* a part ended: an event with the time since hold began */
bool pause_carry_sequences(struct cutover *c, struct error *err) WARN_UNUSED;
bool pause_release(struct cutover *c, enum traffic_side side, struct error *err) WARN_UNUSED;
bool pause_switch(struct cutover *c, enum traffic_side side, int64_t deadline_us,
                  struct error *err) WARN_UNUSED;
bool pause_decided(void *ctx, bool *yes, struct error *err); /* engine_ops.decided */

#endif
