#include "steps/tail.h"

#include "base/alloc.h"
#include "base/event.h"
#include "steps/recheck.h"
#include "steps/verify_options.h"
#include "sys/stop.h"
#include "sys/thread.h"

#include <stdlib.h>

#define PASS_KEYS 5000
#define IDLE_MS 50

struct tail {
    struct verifier *verifier;
    struct recheck *recheck; /* NULL: no constraints to check */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop, pause, paused, failed, ended;
    struct verifier_stats stats;
    int64_t estimate_us;
    struct error error;
};

/* Waits while paused; false when the thread is to end. */
static bool may_pass(struct tail *t)
{
    bool go;

    pthread_mutex_lock(&t->mutex);
    while (t->pause && !t->stop) {
        t->paused = true;
        pthread_cond_broadcast(&t->changed);
        thread_cond_wait(&t->changed, &t->mutex, CLOCK_NONE);
    }
    t->paused = false;
    go = !t->stop;
    pthread_mutex_unlock(&t->mutex);
    return go;
}

static void rest(struct tail *t)
{
    pthread_mutex_lock(&t->mutex);
    if (!t->stop && !t->pause)
        thread_cond_wait(&t->changed, &t->mutex, clock_in_ms(IDLE_MS));
    pthread_mutex_unlock(&t->mutex);
}

static void *tail_main(void *arg)
{
    struct tail *t = arg;

    int64_t compared = 0;

    while (may_pass(t)) {
        struct verifier_stats now = {0};
        struct error err = {0};
        bool ok = verifier_pass(t->verifier, PASS_KEYS, &now, &err);

        pthread_mutex_lock(&t->mutex);
        if (ok) {
            t->stats = now;
            t->estimate_us = verifier_estimate_us(t->verifier);
        } else {
            t->failed = true;
            t->error = err;
            t->stop = true;
        }
        pthread_mutex_unlock(&t->mutex);
        /* nothing was found equal: rows that change all the time; don't ask without pause */
        if (now.waiting == 0 || now.suspicious > 0 || now.compared == compared)
            rest(t);
        compared = now.compared;
    }
    pthread_mutex_lock(&t->mutex);
    t->ended = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    return NULL;
}

bool tail_start(struct tail **out, struct cutover *c, struct error *err)
{
    struct tail *t = xcalloc(1, sizeof *t);
    struct verify_options o;

    pthread_mutex_init(&t->mutex, NULL);
    thread_cond_init(&t->changed);
    verify_options_fill(c, &o);
    if (!verifier_open(&t->verifier, &o, c->touched, err) ||
        !thread_start(&t->thread, "tail", tail_main, t, err)) {
        verifier_close(t->verifier);
        free(t);
        return error_push(err, "comparing the tail");
    }
    if (c->changed && !recheck_start(&t->recheck, c, err)) {
        tail_stop(t);
        return false;
    }
    *out = t;
    return true;
}

void tail_stop(struct tail *t)
{
    if (!t)
        return;
    recheck_stop(t->recheck);
    pthread_mutex_lock(&t->mutex);
    t->stop = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    pthread_join(t->thread, NULL);
    verifier_close(t->verifier);
    pthread_mutex_destroy(&t->mutex);
    pthread_cond_destroy(&t->changed);
    free(t);
}

void tail_pause(struct tail *t)
{
    recheck_pause(t->recheck);
    pthread_mutex_lock(&t->mutex);
    t->pause = true;
    pthread_cond_broadcast(&t->changed);
    while (!t->paused && !t->ended)
        thread_cond_wait(&t->changed, &t->mutex, CLOCK_NONE);
    pthread_mutex_unlock(&t->mutex);
}

void tail_go_on(struct tail *t)
{
    pthread_mutex_lock(&t->mutex);
    t->pause = false;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    recheck_go_on(t->recheck);
}

void tail_stats(struct tail *t, struct verifier_stats *out)
{
    pthread_mutex_lock(&t->mutex);
    *out = t->stats;
    pthread_mutex_unlock(&t->mutex);
}

bool tail_error(struct tail *t, struct error *err)
{
    bool ok;

    pthread_mutex_lock(&t->mutex);
    ok = !t->failed;
    if (!ok)
        *err = t->error;
    pthread_mutex_unlock(&t->mutex);
    return ok && recheck_error(t->recheck, err);
}

struct verifier *tail_verifier(struct tail *t)
{
    return t->verifier;
}

int64_t tail_estimate_us(struct tail *t)
{
    int64_t us;

    pthread_mutex_lock(&t->mutex);
    us = t->estimate_us;
    pthread_mutex_unlock(&t->mutex);
    return us;
}

void tail_backlog(struct tail *t, struct constraint_backlog *out)
{
    recheck_backlog(t->recheck, out);
}

void tail_recheck(struct tail *t)
{
    recheck_want(t->recheck);
}
