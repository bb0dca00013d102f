/*
 * stop.h - asking the run to stop. The only thing that threads share besides counters.
 * stop_catch_signals() makes SIGINT, SIGTERM and SIGHUP raise the flag; a second SIGINT exits at
 * once with status 4 (every state survives a kill). SIGPIPE is ignored.
 */
#ifndef PGCUTOVER_SYS_STOP_H
#define PGCUTOVER_SYS_STOP_H

#include "base/error.h"

void stop_catch_signals(void);
void stop_request(const char *why); /* why: a string literal, shown to the user */
bool stop_requested(void);
const char *stop_reason(void);                  /* NULL when not requested */
bool stop_check(struct error *err) WARN_UNUSED; /* false with ERR_STOPPED when requested */
void stop_clear(void); /* before an undo, which must not be stopped half-way */

#endif
