/*
 * event.h - one type of event feeds journal, screen, status and report. Producers call event_*;
 * consumers subscribe. Thread-safe: consumers are called one at a time, on the producer's thread,
 * under a lock, and must not emit events themselves.
 */
#ifndef PGCUTOVER_BASE_EVENT_H
#define PGCUTOVER_BASE_EVENT_H

#include "base/error.h"

#include <stdint.h>

enum event_kind {
    EVENT_INFO,     /* something worth a line */
    EVENT_WARN,     /* something the operator should read */
    EVENT_PROGRESS, /* object (what), done, total (0: unknown), unit */
    EVENT_STEP,     /* step, object = phase: begin, done, failed, undo, undone; elapsed_us */
    EVENT_PAUSE,    /* object = part of the pause, elapsed_us since hold began */
    EVENT_GATE      /* step, text */
};

struct event {
    enum event_kind kind;
    const char *step;   /* may be NULL */
    const char *object; /* may be NULL */
    const char *text;   /* may be NULL */
    int64_t done;
    int64_t total;
    const char *unit; /* "bytes", "rows", "objects", "changes" */
    int64_t elapsed_us;
};

typedef void event_fn(void *ctx, const struct event *ev);

void event_subscribe(event_fn *fn, void *ctx);
void event_unsubscribe(event_fn *fn, void *ctx);
void event_emit(const struct event *ev);
void event_info(const char *fmt, ...) PRINTF(1, 2);
void event_warn(const char *fmt, ...) PRINTF(1, 2);
void event_progress(const char *what, int64_t done, int64_t total, const char *unit);

#endif
