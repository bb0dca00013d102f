/*
 * control.h - talking to a live run through <dir>/control.sock: one line with a verb, an answer
 * until end of file.
 */
#ifndef PGCUTOVER_RUN_CONTROL_H
#define PGCUTOVER_RUN_CONTROL_H

#include "base/strbuf.h"

struct control;

/* Called on the control thread for each line received; writes the answer for the asker. */
typedef void control_fn(void *ctx, const char *line, struct strbuf *answer);

bool control_start(struct control **out, const char *dir, control_fn *fn, void *ctx,
                   struct error *err) WARN_UNUSED;
void control_stop(struct control *c); /* NULL is allowed; removes the socket */

/* ERR_CONNECT when no process listens there. */
bool control_send(const char *dir, const char *line, struct strbuf *answer,
                  struct error *err) WARN_UNUSED;

#endif
