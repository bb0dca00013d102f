/* preflight.h - the list of pass, warn and fail that the checks fill. */
#ifndef PGCUTOVER_STEPS_PREFLIGHT_H
#define PGCUTOVER_STEPS_PREFLIGHT_H

#include "steps/steps.h"

/* name is a literal; todo says what to do (copied; left out for CHECK_PASS). */
void check_add(struct check_list *l, const char *name, enum check_result result, const char *todo,
               const char *fmt, ...) PRINTF(5, 6);

void preflight_blue(struct cutover *c, struct check_list *l);
void preflight_green(struct cutover *c, struct check_list *l);
void preflight_tools(struct cutover *c, struct check_list *l);
void preflight_traffic(struct cutover *c, struct check_list *l);

#endif
