/* commands.h - the playbook's own shell commands ([deploy], [hook], [check]), with the run's facts
 * in the environment: PGCUTOVER_RUN, PGCUTOVER_DIR, PGCUTOVER_STEP, PGCUTOVER_SIDE. Output goes to
 * logs/commands.log. */
#ifndef PGCUTOVER_STEPS_COMMANDS_H
#define PGCUTOVER_STEPS_COMMANDS_H

#include "steps/cutover.h"

/* Runs the command that key of the section holds; nothing when it is unset. The section has a
 * `timeout`. */
bool command_run(struct cutover *c, const struct playbook_section *s, const char *key,
                 const char *side, struct error *err) WARN_UNUSED;

#endif
