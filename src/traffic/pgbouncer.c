/*
 * pgbouncer.c - PgBouncer's verbs.
 *
 * One alias. Two things say where it points: the running configuration (SHOW DATABASES) and the
 * file, which decides after a restart. PAUSE and SET live in the running process alone.
 *
 *     running  file    paused  means
 *     blue     blue    no      blue serves
 *     blue     blue    yes     held for blue
 *     blue     green   yes     switching: the file is written, RELOAD isn't done or was refused
 *     green    green   yes     held for green
 *     green    green   no      green serves
 *     they differ              MIXED: a restart of PgBouncer would move traffic
 *     one is neither           UNKNOWN
 *
 * RELOAD answers OK for a broken or missing file (1.18), and drops an alias that the file lost with
 * all its clients. So the file is replaced whole, never opened for writing, its line is proved to
 * be there before RELOAD, and SHOW DATABASES is read back after it; what didn't take is put back.
 * RELOAD also undoes what others had SET: that can't be helped, and they should know.
 *
 * Two aliases (two versions). Both always point at their own sides; PAUSE alone decides:
 *
 *     old      new     means
 *     runs     paused  blue serves
 *     paused   runs    green serves
 *     paused   paused  held: nobody serves. The side is the one that this process switched to or
 *                      released last, else UNKNOWN: the arbiter decides
 *     runs     runs    MIXED
 *
 * The state lives in the process of PgBouncer: after its restart both run. Nothing then reaches the
 * wrong side, since the fences in the databases hold, but old clients fail instead of waiting.
 * switch_to(side) and release(side) are idempotent and put the pause back that belongs to the side.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "sys/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RELEASE_SETTLE_MS 200
#define RETIRE_SETTLE_MS 2000
#define PUT_BACK_MS 5000

static const char *side_key(enum traffic_side side)
{
    return side == TRAFFIC_GREEN ? "green" : "blue";
}

/* ---- open, close ---- */

static bool need(const struct traffic *t, const char *key, const char **value, struct error *err)
{
    *value = playbook_str(t->section, key);
    return *value ||
           error_set(err, ERR_PLAYBOOK, "[traffic %s] needs \"%s\"", traffic_name(t), key);
}

static void add_pooler(struct pgbouncer *b, const char *conninfo)
{
    const char *run = b->t->context.run;
    struct pooler *p = VEC_ADD(b->poolers, b->npoolers, b->cappoolers);

    p->main = console_new(conninfo, run);
    p->second = console_new(conninfo, run);
}

static bool read_target(struct pgbouncer *b, enum traffic_side side, struct error *err)
{
    size_t i = side == TRAFFIC_GREEN;
    const char *why = NULL;

    if (!need(b->t, side_key(side), &b->text[i], err))
        return false;
    /* the value may hold a password */
    return target_parse(&b->target[i], b->text[i], bouncer_alias(b, side), &why) ||
           error_set(err, ERR_PLAYBOOK, "%s in [traffic %s] %s", side_key(side), traffic_name(b->t),
                     why);
}

static bool read_settings(struct pgbouncer *b, struct error *err)
{
    const struct traffic *t = b->t;
    const char *admin, *tail, *more;

    if (!need(t, "admin", &admin, err) || !need(t, "database", &b->database, err))
        return false;
    if (t->context.two_versions && !need(t, "new_database", &b->new_database, err))
        return error_hint(err, "With compatible = switch each version has an alias of its own.");
    b->file = playbook_str(t->section, "file");
    if (!bouncer_two(b) && !need(t, "file", &b->file, err))
        return false;
    if (!read_target(b, TRAFFIC_BLUE, err) || !read_target(b, TRAFFIC_GREEN, err))
        return false;
    if (bouncer_two(b) ? strcmp(b->database, b->new_database) == 0
                       : target_same(&b->target[0], &b->target[1]))
        return error_set(err, ERR_PLAYBOOK, "[traffic %s] can't tell blue and green apart",
                         traffic_name(t));
    b->timeout_us = playbook_us(t->section, "timeout");
    add_pooler(b, admin);
    for (size_t i = 0; playbook_prefixed(t->section, "admin.", i, &tail, &more); i++)
        add_pooler(b, more);
    return true;
}

static bool bouncer_open(struct traffic *t, struct error *err)
{
    struct pgbouncer *b = xcalloc(1, sizeof *b);

    t->state = b;
    b->t = t;
    b->lock_fd = -1;
    b->new_was_paused = -1;
    if (!read_settings(b, err))
        return false;
    note_load(b);
    return true;
}

static void bouncer_close(struct traffic *t)
{
    struct pgbouncer *b = t->state;

    if (!b)
        return;
    for (size_t i = 0; i < b->npoolers; i++) {
        console_free(b->poolers[i].main);
        console_free(b->poolers[i].second);
        free(b->poolers[i].login_retry);
    }
    free(b->poolers);
    target_release(&b->target[0]);
    target_release(&b->target[1]);
    free(b->said);
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    free(b);
}

/* ---- hold ---- */

/* Which alias serves now; held already: either will do, and its pause is proved again. */
static bool serving_alias(struct pgbouncer *b, const struct patience *how, const char **alias,
                          struct error *err)
{
    enum traffic_side side;
    bool held;

    *alias = b->database;
    if (!bouncer_two(b))
        return true;
    if (!bouncer_sides(b, how, &side, &held, err))
        return false;
    if (held)
        return true;
    if (side == TRAFFIC_MIXED) {
        error_set(err, ERR_TRAFFIC, "neither \"%s\" nor \"%s\" is held: no telling which serves",
                  b->database, b->new_database);
        return error_hint(err, "PgBouncer was restarted, most likely. PAUSE the one that must not "
                               "serve in its admin console.");
    }
    *alias = bouncer_alias(b, side);
    b->served = side;
    return true;
}

static bool bouncer_probe(struct traffic *t, enum traffic_side *side, bool *held, struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience how = bouncer_how(b, false, true);

    return bouncer_sides(b, &how, side, held, err);
}

static bool bouncer_hold(struct traffic *t, int64_t deadline_us, struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience how = {.deadline_us = deadline_us, .patient = true, .stoppable = true};
    struct error ignored = {0};
    const char *alias;

    if (!serving_alias(b, &how, &alias, err))
        return false;
    if (bouncer_zero_retry(b, &how, err) &&
        bouncer_pause(b, alias, deadline_us, PAUSE_UNDO_ALL, err))
        return true;
    if (!bouncer_restore_retry(b, RELEASE_SETTLE_MS, false, &ignored))
        event_warn("traffic %s: %s", traffic_name(t), ignored.message);
    return false;
}

/* ---- switch ---- */

static bool reload_all(struct pgbouncer *b, const struct patience *how, struct error *err)
{
    for (size_t i = 0; i < b->npoolers; i++)
        if (!console_command(b->poolers[i].second, how, "RELOAD", NULL, err))
            return false;
    /* RELOAD put it back to the file's */
    return bouncer_zero_retry(b, how, err);
}

static void put_file_back(struct pgbouncer *b, const struct strbuf *old, struct error *err)
{
    struct patience how = {.deadline_us = clock_in_ms(PUT_BACK_MS), .patient = true};
    struct error why = {0};

    if (file_replace(b->file, old->data, old->len, 0644, &why) && reload_all(b, &how, &why)) {
        error_detail(err, "\"%s\" was put back as it was", b->file);
        return;
    }
    error_detail(err, "and \"%s\" could not be put back: %s", b->file, why.message);
}

static bool is_there(struct pgbouncer *b, enum traffic_side side, const char *value,
                     const struct patience *how)
{
    struct error ignored = {0};

    return strcmp(value, b->text[side == TRAFFIC_GREEN]) == 0 &&
           bouncer_points_at(b, how, b->database, side, &ignored);
}

static bool repoint(struct pgbouncer *b, enum traffic_side side, const struct patience *how,
                    struct error *err)
{
    const char *wanted = b->text[side == TRAFFIC_GREEN];
    struct strbuf old = {0};
    struct strbuf text = {0};
    bool ok = alias_replaced(b->file, b->database, wanted, &old, &text, err);

    if (ok)
        ok = file_replace(b->file, text.data, text.len, 0644, err) &&
             FAULT("traffic.switch.file-written", err);
    if (ok) {
        ok = reload_all(b, how, err) && bouncer_points_at(b, how, b->database, side, err);
        if (!ok) {
            error_hint(err,
                       "RELOAD says OK even when the configuration is broken: the reason is in "
                       "PgBouncer's log.");
            put_file_back(b, &old, err);
        }
    }
    strbuf_release(&old);
    strbuf_release(&text);
    return ok;
}

static bool switch_one(struct pgbouncer *b, enum traffic_side side, const struct patience *how,
                       struct error *err)
{
    char *value = NULL;
    bool there;

    if (!alias_read(b->file, b->database, &value, err))
        return false;
    there = is_there(b, side, value, how);
    free(value);
    return there || repoint(b, side, how, err);
}

static bool switch_two(struct pgbouncer *b, enum traffic_side side, const struct patience *how,
                       struct error *err)
{
    if (!bouncer_points_at(b, how, b->database, TRAFFIC_BLUE, err) ||
        !bouncer_points_at(b, how, b->new_database, TRAFFIC_GREEN, err) ||
        !bouncer_stop_new(b, bouncer_alias(b, bouncer_other(side)), err))
        return false;
    b->served = side;
    return true;
}

static bool bouncer_switch(struct traffic *t, enum traffic_side side, int64_t deadline_us,
                           struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience how = {.deadline_us = deadline_us, .patient = true};

    return bouncer_two(b) ? switch_two(b, side, &how, err) : switch_one(b, side, &how, err);
}

/* ---- verify, release, retire ---- */

static bool verify_file(struct pgbouncer *b, enum traffic_side side, struct error *err)
{
    enum traffic_side file;

    if (!bouncer_file_side(b, b->database, &file, err))
        return false;
    if (file == side)
        return true;
    error_set(err, ERR_TRAFFIC, "\"%s\" points \"%s\" at %s, not at %s", b->file, b->database,
              traffic_side_name(file), traffic_side_name(side));
    return error_hint(err, "A restart of PgBouncer would move traffic there: switch again.");
}

static bool bouncer_verify(struct traffic *t, enum traffic_side side, struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience how = bouncer_how(b, true, false);

    return bouncer_points_at(b, &how, bouncer_alias(b, side), side, err) &&
           (bouncer_two(b) ? bouncer_other_held(b, side, &how, err) : verify_file(b, side, err));
}

static void restore_retry(struct pgbouncer *b)
{
    struct error why = {0};

    if (!bouncer_restore_retry(b, RELEASE_SETTLE_MS, false, &why))
        event_warn("traffic %s: server_login_retry is still 0: %s", traffic_name(b->t),
                   why.message);
}

/* Traffic never goes on to another side than the one asked for. */
static bool release_on(struct pgbouncer *b, struct pooler *p, enum traffic_side side,
                       const struct patience *how, struct error *err)
{
    const char *alias = bouncer_alias(b, side);
    const char *idle = bouncer_alias(b, bouncer_other(side));

    return pooler_points_at(b, p, how, alias, side, err) &&
           (!bouncer_two(b) || pooler_stop_new(p, idle, how, err)) &&
           pooler_resume(p, alias, how, err);
}

/* One that doesn't answer must not keep the others' clients waiting: it is waited for last. */
static bool bouncer_release(struct traffic *t, enum traffic_side side, struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience now = bouncer_how(b, false, false);
    struct patience how = bouncer_how(b, true, false);
    bool *done = xcalloc(b->npoolers, sizeof *done);
    struct error why = {0};
    bool ok = true;

    for (size_t i = 0; i < b->npoolers; i++)
        done[i] = release_on(b, &b->poolers[i], side, &now, &why);
    for (size_t i = 0; i < b->npoolers; i++)
        ok = (done[i] || release_on(b, &b->poolers[i], side, &how, err)) && ok;
    free(done);
    if (!ok)
        return false;
    b->served = b->noted = side;
    if (bouncer_two(b) && !note_save(b, &why))
        event_warn("traffic %s: %s", traffic_name(t), why.message);
    restore_retry(b);
    return true;
}

/* The new alias runs again after an abort, unless it was paused before we came. After the switch
 * the old one stays paused: the old version can't run on the new schema. */
static bool retire_two(struct pgbouncer *b, const struct patience *how, struct error *err)
{
    enum traffic_side side;
    bool held;

    if (!bouncer_sides(b, how, &side, &held, err))
        return false;
    if (side == TRAFFIC_BLUE && !held && b->new_was_paused == 0)
        return bouncer_resume(b, b->new_database, err);
    return true;
}

static bool bouncer_retire(struct traffic *t, struct error *err)
{
    struct pgbouncer *b = t->state;
    struct patience how = bouncer_how(b, true, false);

    if (bouncer_two(b) && !retire_two(b, &how, err))
        return false;
    if (!bouncer_restore_retry(b, RETIRE_SETTLE_MS, true, err))
        return false;
    note_remove(b);
    return true;
}

/* ---- describe ---- */

static void describe_target(const struct pgbouncer *b, enum traffic_side side, struct strbuf *out)
{
    char *text = target_describe(bouncer_target(b, side));
    strbuf_addf(out, "%s is %s", traffic_side_name(side), text);
    free(text);
}

static void bouncer_describe(const struct traffic *t, struct strbuf *out)
{
    const struct pgbouncer *b = t->state;

    strbuf_addf(out, "pgbouncer, %zu admin console%s; ", b->npoolers, b->npoolers == 1 ? "" : "s");
    describe_target(b, TRAFFIC_BLUE, out);
    strbuf_addstr(out, ", ");
    describe_target(b, TRAFFIC_GREEN, out);
    strbuf_addstr(out, "; traffic can be held\n");
    if (bouncer_two(b)) {
        strbuf_addf(
            out,
            "  prepare: PAUSE \"%s\"\n"
            "  hold: SET server_login_retry=0; PAUSE \"%s\"; SHOW DATABASES until no server "
            "connection is left\n"
            "  switch: SHOW DATABASES: each alias points at its own side\n"
            "  verify: \"%s\" is paused\n"
            "  release: RESUME \"%s\"; \"%s\" stays paused; server_login_retry back\n",
            b->new_database, b->database, b->database, b->new_database, b->database);
        return;
    }
    strbuf_addf(out,
                "  prepare: SET server_login_retry to the value that it has\n"
                "  hold: SET server_login_retry=0; PAUSE \"%s\"; SHOW DATABASES until no server "
                "connection is left\n"
                "  switch: write the line of \"%s\" in %s; RELOAD; SHOW DATABASES\n"
                "  verify: SHOW DATABASES, and the line in the file\n"
                "  release: RESUME \"%s\"; server_login_retry back\n",
                b->database, b->database, b->file, b->database);
}

const struct traffic_ops traffic_pgbouncer = {
    .name = "pgbouncer",
    .can_hold = true,
    .open = bouncer_open,
    .close = bouncer_close,
    .probe = bouncer_probe,
    .check = bouncer_check,
    .prepare = bouncer_prepare,
    .hold = bouncer_hold,
    .switch_to = bouncer_switch,
    .verify = bouncer_verify,
    .release = bouncer_release,
    .retire = bouncer_retire,
    .describe = bouncer_describe,
};
