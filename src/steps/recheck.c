/*
 * recheck.c - full runs of the constraint checks beside replay.
 *
 * The keys that changed so far are moved aside before a run: what changes during it is added anew.
 * After a run that satisfied all they are forgotten, after any other they are moved back.
 *
 * The source doesn't enforce these constraints, so its applications may break one in one
 * transaction and mend it in the next; replay commits both, and a run may fall in between. Only
 * what a second run finds, too, ends the thread.
 */
#include "steps/recheck.h"

#include "base/alloc.h"
#include "base/event.h"
#include "steps/tail.h"
#include "sys/stop.h"
#include "sys/thread.h"

#include <stdlib.h>

#define MANY_KEYS 20000
#define BETWEEN_US 10000000
#define COST 9 /* times as long as a run took is rested after it */
#define DOUBT_US 2000000
#define TICK_MS 200
#define VIOLATED_RUNS 2

struct recheck {
    struct cutover *c;
    struct touched *parked; /* keys that changed before the run that is on */
    struct pg *green;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop, pause, paused, failed, wanted;
    atomic_bool interrupt;
    struct error error;
    /* the thread's own */
    int64_t next_us;
    int violated;
    bool warned;
};

static bool may_go(struct recheck *r)
{
    bool go;

    pthread_mutex_lock(&r->mutex);
    while (r->pause && !r->stop) {
        r->paused = true;
        pthread_cond_broadcast(&r->wake);
        thread_cond_wait(&r->wake, &r->mutex, CLOCK_NONE);
    }
    r->paused = false;
    go = !r->stop;
    pthread_mutex_unlock(&r->mutex);
    return go;
}

static void rest(struct recheck *r)
{
    pthread_mutex_lock(&r->mutex);
    if (!r->stop && !r->pause)
        thread_cond_wait(&r->wake, &r->mutex, clock_in_ms(TICK_MS));
    pthread_mutex_unlock(&r->mutex);
}

static bool is_due(struct recheck *r)
{
    struct constraint_backlog b;
    bool wanted;

    pthread_mutex_lock(&r->mutex);
    wanted = r->wanted;
    r->wanted = false;
    pthread_mutex_unlock(&r->mutex);
    if (wanted)
        return true;
    if (!clock_passed(r->next_us))
        return false;
    constraint_checks_backlog(&r->c->checks, &r->c->map, r->c->changed, &b);
    return r->violated || b.keys > MANY_KEYS || b.full;
}

static bool connect_green(struct recheck *r, struct error *err)
{
    if (r->green && !pg_is_bad(r->green))
        return true;
    pg_close(r->green);
    r->green = NULL;
    if (!side_open(r->c, &r->c->green, PG_PLAIN, "recheck", &r->green, err))
        return false;
    pg_set_interrupt(r->green, &r->interrupt);
    return true;
}

static bool run_all(struct recheck *r, struct error *err)
{
    struct constraint_checks *checks = &r->c->checks;
    bool ok = connect_green(r, err);

    if (ok)
        touched_move(r->c->changed, r->parked);
    for (size_t i = 0; ok && i < checks->n; i++)
        ok = constraint_check_run(&checks->items[i], r->green, err);
    if (ok)
        touched_clear(r->parked);
    else
        touched_move(r->parked, r->c->changed);
    return ok;
}

static void give_up(struct recheck *r, const struct error *err)
{
    pthread_mutex_lock(&r->mutex);
    r->failed = r->stop = true;
    r->error = *err;
    pthread_mutex_unlock(&r->mutex);
}

static void judge(struct recheck *r, const struct error *err)
{
    if (err->code == ERR_STOPPED || atomic_load(&r->interrupt))
        return;
    if (err->code == ERR_CONNECT) {
        if (!r->warned)
            event_warn("constraints can't be checked again before the pause: %s", err->message);
        r->warned = true;
    } else if (err->code != ERR_NOGO || ++r->violated >= VIOLATED_RUNS) {
        give_up(r, err);
    } else {
        event_warn("%s (looked at again before it counts)", err->message);
    }
}

static void run_once(struct recheck *r)
{
    int64_t began = clock_us(), took;
    struct error err = {0};
    bool ok = run_all(r, &err);

    took = clock_us() - began;
    r->next_us = clock_us() + (took * COST > BETWEEN_US ? took * COST : BETWEEN_US);
    if (!ok) {
        judge(r, &err);
        if (r->violated)
            r->next_us = clock_us() + (took > DOUBT_US ? took : DOUBT_US);
        return;
    }
    r->violated = 0;
    r->warned = false;
}

static void *recheck_main(void *arg)
{
    struct recheck *r = arg;

    while (may_go(r)) {
        if (is_due(r))
            run_once(r);
        rest(r);
    }
    pthread_mutex_lock(&r->mutex);
    r->stop = r->paused = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static void release(struct recheck *r)
{
    pg_close(r->green);
    touched_free(r->parked);
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->wake);
    free(r);
}

bool recheck_start(struct recheck **out, struct cutover *c, struct error *err)
{
    struct recheck *r = xcalloc(1, sizeof *r);

    r->c = c;
    r->parked = touched_new(c->map.ntables, SIZE_MAX);
    r->next_us = clock_us() + BETWEEN_US;
    pthread_mutex_init(&r->mutex, NULL);
    thread_cond_init(&r->wake);
    if (!connect_green(r, err) || !thread_start(&r->thread, "recheck", recheck_main, r, err)) {
        release(r);
        return error_push(err, "checking constraints");
    }
    *out = r;
    return true;
}

void recheck_stop(struct recheck *r)
{
    if (!r)
        return;
    atomic_store(&r->interrupt, true);
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    release(r);
}

void recheck_pause(struct recheck *r)
{
    if (!r)
        return;
    atomic_store(&r->interrupt, true);
    pthread_mutex_lock(&r->mutex);
    r->pause = true;
    pthread_cond_broadcast(&r->wake);
    while (!r->paused)
        thread_cond_wait(&r->wake, &r->mutex, CLOCK_NONE);
    pthread_mutex_unlock(&r->mutex);
}

void recheck_go_on(struct recheck *r)
{
    if (!r)
        return;
    atomic_store(&r->interrupt, false);
    pthread_mutex_lock(&r->mutex);
    r->pause = false;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
}

void recheck_want(struct recheck *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mutex);
    r->wanted = true;
    pthread_mutex_unlock(&r->mutex);
}

bool recheck_error(struct recheck *r, struct error *err)
{
    bool ok = true;

    if (!r)
        return true;
    pthread_mutex_lock(&r->mutex);
    if (r->failed) {
        *err = r->error;
        ok = false;
    }
    pthread_mutex_unlock(&r->mutex);
    return ok;
}

void recheck_backlog(struct recheck *r, struct constraint_backlog *out)
{
    struct constraint_backlog parked = {0};

    *out = (struct constraint_backlog){0};
    if (!r)
        return;
    constraint_checks_backlog(&r->c->checks, &r->c->map, r->c->changed, out);
    constraint_checks_backlog(&r->c->checks, &r->c->map, r->parked, &parked);
    out->keys += parked.keys;
    if (parked.full > out->full)
        out->full = parked.full;
}

bool constraints_hold(struct cutover *c, int64_t deadline_us, struct error *err)
{
    return constraint_checks_run_changed(&c->checks, c->green.pg, &c->map, c->changed, deadline_us,
                                         err);
}

bool constraints_warm(struct cutover *c, struct error *err)
{
    const char *budget = playbook_str(cutover_section(c, "thresholds"), "write_pause");
    int64_t limit = playbook_us(cutover_section(c, "thresholds"), "write_pause") / 2;

    if (constraints_hold(c, clock_us() + limit, err))
        return true;
    if (err->code != ERR_BUDGET)
        return false;
    tail_recheck(c->tail);
    error_set(err, ERR_BUDGET,
              "constraints that replay doesn't enforce can't be checked in half of the pause's %s "
              "for the rows that changed since they were checked in full",
              budget);
    return error_hint(err, "That is done again now, which leaves less for the pause: try again in "
                           "a while, with less load, or raise [thresholds] write_pause.");
}
