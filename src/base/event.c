#include "base/event.h"

#include "base/alloc.h"
#include "base/strbuf.h"

#include <pthread.h>

struct subscriber {
    event_fn *fn;
    void *ctx;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct subscriber *subscribers;
static size_t nsubscribers;
static size_t capsubscribers;
static _Thread_local bool emitting;

void event_subscribe(event_fn *fn, void *ctx)
{
    pthread_mutex_lock(&lock);
    *VEC_ADD(subscribers, nsubscribers, capsubscribers) = (struct subscriber){fn, ctx};
    pthread_mutex_unlock(&lock);
}

void event_unsubscribe(event_fn *fn, void *ctx)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < nsubscribers; i++) {
        if (subscribers[i].fn != fn || subscribers[i].ctx != ctx)
            continue;
        nsubscribers--;
        memmove(&subscribers[i], &subscribers[i + 1], (nsubscribers - i) * sizeof *subscribers);
        break;
    }
    pthread_mutex_unlock(&lock);
}

void event_emit(const struct event *ev)
{
    if (emitting)
        BUG("a consumer of events emitted one");
    emitting = true;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < nsubscribers; i++)
        subscribers[i].fn(subscribers[i].ctx, ev);
    pthread_mutex_unlock(&lock);
    emitting = false;
}

static void emit_text(enum event_kind kind, const char *fmt, va_list ap) PRINTF(2, 0);
static void emit_text(enum event_kind kind, const char *fmt, va_list ap)
{
    struct strbuf text = {0};
    strbuf_addv(&text, fmt, ap);
    event_emit(&(struct event){.kind = kind, .text = strbuf_cstr(&text)});
    strbuf_release(&text);
}

void event_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    emit_text(EVENT_INFO, fmt, ap);
    va_end(ap);
}

void event_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    emit_text(EVENT_WARN, fmt, ap);
    va_end(ap);
}

void event_progress(const char *what, int64_t done, int64_t total, const char *unit)
{
    event_emit(&(struct event){
        .kind = EVENT_PROGRESS, .object = what, .done = done, .total = total, .unit = unit});
}
