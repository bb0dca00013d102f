#include "steps/keeper.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/human.h"
#include "steps/tail.h"
#include "sys/file.h"
#include "sys/stop.h"
#include "sys/thread.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 50
#define STATUS_US 1000000

struct keeper {
    struct cutover *c;
    pthread_t thread;
    pthread_mutex_t parts; /* what c points to doesn't change while held */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    bool news;   /* a step or a gate: the status is to say so at once */
    bool warned; /* of WAL that the slot holds on blue */
    char *path;
    /* last progress event, for status */
    char what[96];
    int64_t done, total;
    char unit[16];
};

void keeper_lock(struct keeper *k)
{
    if (k)
        pthread_mutex_lock(&k->parts);
}

void keeper_unlock(struct keeper *k)
{
    if (k)
        pthread_mutex_unlock(&k->parts);
}

static void confirm_applied(struct cutover *c)
{
    struct apply_stats a;

    if (!c->apply || !c->capture)
        return;
    apply_stats(c->apply, &a);
    capture_set_applied(c->capture, a.end_lsn);
}

/* TRAPS 19: a slot that is not confirmed fills blue's disk. Events are emitted outside of our
 * locks. */
static bool over_wal_budget(struct cutover *c, int64_t *held)
{
    struct capture_stats s;

    if (!c->capture)
        return false;
    capture_stats(c->capture, &s);
    *held = s.server_end > s.confirmed && s.confirmed ? (int64_t) (s.server_end - s.confirmed) : 0;
    return *held > playbook_bytes(cutover_section(c, "capture"), "wal_budget");
}

static json_t *step_list(const struct engine *e)
{
    json_t *list = json_array();

    for (size_t i = 0; i < e->nsteps; i++) {
        double s = (double) e->elapsed_us[i] / 1e6;

        if (e->states[i] == STEP_BEGUN && e->began_us[i])
            s = (double) (clock_us() - e->began_us[i]) / 1e6;
        json_array_append_new(list, json_pack("{s:s, s:s, s:f}", "name", e->steps[i].name, "state",
                                              step_state_name(e->states[i]), "seconds", s));
    }
    return list;
}

static void add_replay(struct cutover *c, json_t *o)
{
    struct apply_stats a;
    char lsn[LSN_SIZE];

    if (!c->apply)
        return;
    apply_stats(c->apply, &a);
    json_object_set_new(
        o, "replay",
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "commit_lsn", lsn_str(lsn, a.commit_lsn),
                  "transactions", (json_int_t) a.transactions, "inserts", (json_int_t) a.inserts,
                  "updates", (json_int_t) a.updates, "deletes", (json_int_t) a.deletes, "redone",
                  (json_int_t) a.redone));
}

static void add_tail(struct cutover *c, json_t *o)
{
    struct verifier_stats v;

    if (!c->tail)
        return;
    tail_stats(c->tail, &v);
    json_object_set_new(
        o, "tail",
        json_pack("{s:I, s:I, s:I}", "waiting", (json_int_t) v.waiting, "compared",
                  (json_int_t) v.compared, "suspicious", (json_int_t) v.suspicious));
}

static void add_capture(struct cutover *c, json_t *o)
{
    struct capture_stats s;
    char lsn[LSN_SIZE];

    if (!c->capture)
        return;
    capture_stats(c->capture, &s);
    json_object_set_new(
        o, "capture",
        json_pack("{s:b, s:s, s:I, s:I, s:I}", "connected", s.connected, "confirmed_lsn",
                  lsn_str(lsn, s.confirmed), "transactions", (json_int_t) s.transactions, "bytes",
                  (json_int_t) s.bytes, "spool_bytes",
                  (json_int_t) (c->spool ? spool_bytes(c->spool) : 0)));
}

json_t *keeper_status(struct cutover *c)
{
    const char *ended = rundir_ended(c->journal);
    const struct engine *e = &c->engine;
    int64_t lag = live_lag_bytes(c);
    char at[CLOCK_ISO_SIZE];
    struct three_lines lines;
    json_t *o = json_object();

    clock_iso(at, clock_wall_us());
    cutover_three_lines(c, &lines);
    json_object_set_new(o, "run", json_string(c->dir.name));
    json_object_set_new(o, "directory", json_string(c->dir.path));
    json_object_set_new(o, "at", json_string(at));
    json_object_set_new(o, "pid", json_integer(getpid()));
    json_object_set_new(o, "state",
                        json_string(ended       ? "ended"
                                    : c->keeper ? "running"
                                                : "stopped"));
    json_object_set_new(o, "ended", ended ? json_string(ended) : json_null());
    json_object_set_new(
        o, "step",
        e->steps && e->current < e->nsteps ? json_string(e->steps[e->current].name) : json_null());
    if (e->steps)
        json_object_set_new(o, "steps", step_list(e));
    json_object_set_new(o, "gate",
                        c->gate_open && e->steps && e->current < e->nsteps
                            ? json_string(e->steps[e->current].name)
                            : json_null());
    json_object_set_new(o, "serving", json_string(lines.serving));
    json_object_set_new(o, "way_back", json_string(lines.way_back));
    json_object_set_new(o, "next", json_string(lines.next));
    json_object_set_new(o, "lag_bytes", lag >= 0 ? json_integer((json_int_t) lag) : json_null());
    add_capture(c, o);
    add_replay(c, o);
    add_tail(c, o);
    return o;
}

/* Made under the locks, written outside of them: nobody waits for the disk. */
static char *status_text(struct keeper *k)
{
    json_t *o;
    char *text;

    keeper_lock(k);
    journal_lock(k->c->journal);
    o = keeper_status(k->c);
    journal_unlock(k->c->journal);
    keeper_unlock(k);
    pthread_mutex_lock(&k->mutex);
    if (k->what[0])
        json_object_set_new(
            o, "progress",
            json_pack("{s:s, s:I, s:I, s:s}", "what", k->what, "done", (json_int_t) k->done,
                      "total", (json_int_t) k->total, "unit", k->unit));
    pthread_mutex_unlock(&k->mutex);
    text = json_dumps(o, JSON_INDENT(1));
    json_decref(o);
    return text;
}

static void write_status(struct keeper *k)
{
    struct error err = {0};
    char *text = status_text(k);

    if (text && !file_replace(k->path, text, strlen(text), 0644, &err))
        fprintf(stderr, "pgcutover: status: %s\n", err.message);
    free(text);
}

static void on_event(void *ctx, const struct event *ev)
{
    struct keeper *k = ctx;

    pthread_mutex_lock(&k->mutex);
    if (ev->kind == EVENT_PROGRESS) {
        snprintf(k->what, sizeof k->what, "%s", ev->object ? ev->object : "");
        snprintf(k->unit, sizeof k->unit, "%s", ev->unit ? ev->unit : "");
        k->done = ev->done;
        k->total = ev->total;
    } else if (ev->kind == EVENT_STEP || ev->kind == EVENT_GATE) {
        k->what[0] = '\0';
        k->news = true;
        pthread_cond_broadcast(&k->wake);
    }
    pthread_mutex_unlock(&k->mutex);
}

static void *keeper_main(void *arg)
{
    struct keeper *k = arg;
    int64_t next_status = 0;
    bool stop = false, news = false;

    while (!stop) {
        struct error err = {0};
        int64_t held = 0;
        bool over;

        keeper_lock(k);
        confirm_applied(k->c);
        over = over_wal_budget(k->c, &held);
        if ((k->c->capture && !capture_error(k->c->capture, &err)) ||
            (k->c->apply && !apply_error(k->c->apply, &err)))
            stop_request("a thread of the run failed");
        keeper_unlock(k);
        if (over && !k->warned) {
            char text[HUMAN_SIZE];

            event_warn("the slot holds %s of WAL on blue, over [capture] wal_budget",
                       human_bytes(text, held));
        }
        k->warned = over;
        if (news || clock_us() >= next_status) {
            write_status(k);
            next_status = clock_us() + STATUS_US;
        }
        pthread_mutex_lock(&k->mutex);
        if (!k->stop && !k->news)
            thread_cond_wait(&k->wake, &k->mutex, clock_in_ms(TICK_MS));
        stop = k->stop;
        news = k->news;
        k->news = false;
        pthread_mutex_unlock(&k->mutex);
    }
    return NULL;
}

bool keeper_start(struct keeper **out, struct cutover *c, struct error *err)
{
    struct keeper *k = xcalloc(1, sizeof *k);

    k->c = c;
    k->path = cutover_file(c, "status.json");
    pthread_mutex_init(&k->parts, NULL);
    pthread_mutex_init(&k->mutex, NULL);
    thread_cond_init(&k->wake);
    *out = k; /* before its thread reads it as c->keeper */
    if (!thread_start(&k->thread, "keeper", keeper_main, k, err)) {
        *out = NULL;
        free(k->path);
        free(k);
        return false;
    }
    event_subscribe(on_event, k);
    return true;
}

void keeper_stop(struct keeper *k)
{
    struct cutover *c;

    if (!k)
        return;
    c = k->c;
    event_unsubscribe(on_event, k);
    pthread_mutex_lock(&k->mutex);
    k->stop = true;
    pthread_cond_broadcast(&k->wake);
    pthread_mutex_unlock(&k->mutex);
    pthread_join(k->thread, NULL);
    c->keeper = NULL; /* the last status says "stopped" or "ended" */
    write_status(k);
    pthread_mutex_destroy(&k->parts);
    pthread_mutex_destroy(&k->mutex);
    pthread_cond_destroy(&k->wake);
    free(k->path);
    free(k);
}
