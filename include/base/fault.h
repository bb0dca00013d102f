/*
 * fault.h - named points where tests make the program die, stall or fail.
 * PGCUTOVER_FAULT="replay.after-apply=die" (several with ','; "=die@3" at the third passing only;
 * die is SIGKILL to ourselves, stall is SIGSTOP to ourselves, error returns an ERR_INTERNAL "fault
 * ..."). With the variable unset a point costs one load and branch.
 */
#ifndef PGCUTOVER_BASE_FAULT_H
#define PGCUTOVER_BASE_FAULT_H

#include "base/error.h"

bool fault_hit(const char *name, struct error *err); /* false: err was set, the caller fails */
#define FAULT(name, err) fault_hit((name), (err))

#endif
