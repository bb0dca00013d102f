/* verify_options.h - the playbook's [verify] and the run's sides as options of the verify module.
 */
#ifndef PGCUTOVER_STEPS_VERIFY_OPTIONS_H
#define PGCUTOVER_STEPS_VERIFY_OPTIONS_H

#include "steps/cutover.h"
#include "verify/verify.h"

void verify_options_fill(struct cutover *c, struct verify_options *o);

#endif
