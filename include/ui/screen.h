/*
 * screen.h - events as lines on standard error: steps as they go, a progress line (bar, rate, time
 * left) that rewrites itself on a terminal and comes every few seconds as plain lines elsewhere.
 * And the question at a gate.
 */
#ifndef PGCUTOVER_UI_SCREEN_H
#define PGCUTOVER_UI_SCREEN_H

#include <stdbool.h>

struct screen;

/* quiet: nothing but warnings. run_name must be typed at a gate to go. */
struct screen *screen_new(bool quiet, const char *run_name);
void screen_free(struct screen *s); /* NULL is allowed */

enum screen_answer { SCREEN_NONE, SCREEN_GO, SCREEN_WAIT, SCREEN_STOP, SCREEN_ABORT };
bool screen_can_ask(const struct screen *s); /* standard input is a terminal */
/* Does not wait. first: show the question. */
enum screen_answer screen_ask(struct screen *s, const char *gate, bool first);

#endif
