/*
 * command.c - traffic moved by shell commands of the playbook.
 *
 * Each is run by /bin/sh with PGCUTOVER_RUN, PGCUTOVER_VERB (the key's name) and PGCUTOVER_SIDE:
 * the side that is switched to, verified or released, or "" where none is known. Exit status 0 is
 * success. Commands may be run twice and must then succeed. What they print goes to the run's log.
 *
 * probe prints blue or green, and `held` behind it while traffic is held; anything else is UNKNOWN.
 * A command's text may hold secrets: errors name its key instead.
 */
#include "private.h"

#include "base/alloc.h"
#include "sys/process.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define UNDO_MS 5000

struct commands {
    int64_t timeout_us;
    enum traffic_side side; /* the last that was probed, switched to or released */
};

static const char *command_of(const struct traffic *t, const char *key)
{
    return playbook_str(t->section, key);
}

static int64_t own_deadline(const struct traffic *t)
{
    const struct commands *c = t->state;
    return clock_us() + c->timeout_us;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* process_run says `"/bin/sh" failed with exit status 7`: the key is put where the shell stands. */
static bool name_key(const char *key, struct error *err)
{
    static const char shell[] = "\"/bin/sh\"";

    if (err->code == ERR_STOPPED)
        return false;
    if (strncmp(err->message, shell, sizeof shell - 1) == 0) {
        struct error said = *err;
        error_set(err, ERR_TRAFFIC, "command \"%s\"%s", key, said.message + sizeof shell - 1);
        error_detail(err, "%s", said.detail);
    }
    err->code = ERR_TRAFFIC;
    return error_hint(err, "Run it by hand; its output is in the run's log.");
}

static bool run(const struct traffic *t, const char *key, enum traffic_side side,
                int64_t deadline_us, bool stoppable, struct strbuf *out, struct error *err)
{
    const char *const argv[] = {"/bin/sh", "-c", command_of(t, key), NULL};
    const char *name = traffic_real_side(side);
    char *env[] = {
        xstrfmt("PGCUTOVER_RUN=%s", t->context.run ? t->context.run : ""),
        xstrfmt("PGCUTOVER_SIDE=%s", name ? name : ""),
        xstrfmt("PGCUTOVER_VERB=%s", key),
        NULL,
    };
    struct process_options opts = {
        .argv = argv,
        .env = (const char *const *) env,
        .log_path = t->context.log_path,
        .out = out,
        .out_ceiling = 4096,
        .deadline_us = deadline_us,
        .ignore_stop = !stoppable,
    };
    struct error why = {0};
    bool ok = process_run(&opts, &why);

    for (char **e = env; *e; e++)
        free(*e);
    if (ok)
        return true;
    name_key(key, &why);
    *err = why;
    return false;
}

/* True when the playbook has no such command. */
static bool run_if_given(const struct traffic *t, const char *key, enum traffic_side side,
                         int64_t deadline_us, bool stoppable, struct error *err)
{
    return !command_of(t, key) || run(t, key, side, deadline_us, stoppable, NULL, err);
}

static bool need(const struct traffic *t, const char *key, struct error *err)
{
    return command_of(t, key) ||
           error_set(err, ERR_PLAYBOOK, "[traffic %s] needs \"%s\"", traffic_name(t), key);
}

static bool command_open(struct traffic *t, struct error *err)
{
    struct commands *c = xcalloc(1, sizeof *c);

    t->state = c;
    c->timeout_us = playbook_us(t->section, "timeout");
    t->can_hold = command_of(t, "hold") != NULL;
    if (!need(t, "switch_blue", err) || !need(t, "switch_green", err))
        return false;
    if (!command_of(t, "verify") && !command_of(t, "probe")) {
        error_set(err, ERR_PLAYBOOK, "[traffic %s] needs \"probe\" or \"verify\"", traffic_name(t));
        return error_hint(err, "A switch must be read back.");
    }
    if (t->can_hold && !need(t, "release", err))
        return error_hint(err, "What hold stops, release must let go on.");
    return true;
}

static void command_close(struct traffic *t)
{
    free(t->state);
}

/* The next word of text, as a run of bytes. */
static const char *next_word(const char *text, size_t *len)
{
    while (isspace((unsigned char) *text))
        text++;
    *len = strcspn(text, " \t\r\n\v\f");
    return text;
}

static bool word_is(const char *word, size_t len, const char *expected)
{
    return strlen(expected) == len && memcmp(word, expected, len) == 0;
}

static void read_probe(const char *text, enum traffic_side *side, bool *held)
{
    size_t len;
    const char *word = next_word(text, &len);

    if (word_is(word, len, "blue"))
        *side = TRAFFIC_BLUE;
    else if (word_is(word, len, "green"))
        *side = TRAFFIC_GREEN;
    else if (word_is(word, len, "mixed"))
        *side = TRAFFIC_MIXED;
    else
        *side = TRAFFIC_UNKNOWN;
    word = next_word(word + len, &len);
    *held = word_is(word, len, "held");
}

static bool probe(struct traffic *t, bool stoppable, enum traffic_side *side, bool *held,
                  struct error *err)
{
    struct commands *c = t->state;
    struct strbuf out = {0};
    bool ok = true;

    *side = TRAFFIC_UNKNOWN;
    *held = false;
    if (command_of(t, "probe"))
        ok = run(t, "probe", c->side, own_deadline(t), stoppable, &out, err);
    if (ok)
        read_probe(strbuf_cstr(&out), side, held);
    if (ok && traffic_real_side(*side))
        c->side = *side;
    strbuf_release(&out);
    return ok;
}

static bool command_probe(struct traffic *t, enum traffic_side *side, bool *held, struct error *err)
{
    return probe(t, true, side, held, err);
}

static bool command_prepare(struct traffic *t, struct error *err)
{
    const struct commands *c = t->state;
    enum traffic_side side;
    bool held;

    if (command_of(t, "probe")) {
        if (!probe(t, true, &side, &held, err))
            return false;
        if (!traffic_real_side(side)) {
            error_set(err, ERR_TRAFFIC, "command \"probe\" says neither blue nor green");
            return error_hint(err, "Its first word must be blue or green: the side that clients "
                                   "reach now.");
        }
    }
    return run_if_given(t, "prepare", c->side, own_deadline(t), true, err);
}

/* A hold that failed may have held some: release is run, whatever became of it. */
static bool command_hold(struct traffic *t, int64_t deadline_us, struct error *err)
{
    const struct commands *c = t->state;
    struct error why = {0};

    if (run(t, "hold", c->side, sooner(deadline_us, own_deadline(t)), true, NULL, err))
        return true;
    if (err->code != ERR_STOPPED && clock_passed(deadline_us))
        err->code = ERR_BUDGET;
    if (!run(t, "release", c->side, clock_in_ms(UNDO_MS), false, NULL, &why)) {
        event_warn("traffic %s: %s", traffic_name(t), why.message);
        error_hint(err, "Traffic may still be held: %s.", why.message);
    }
    return false;
}

static bool command_switch(struct traffic *t, enum traffic_side side, int64_t deadline_us,
                           struct error *err)
{
    struct commands *c = t->state;
    const char *key = side == TRAFFIC_GREEN ? "switch_green" : "switch_blue";

    if (!run(t, key, side, sooner(deadline_us, own_deadline(t)), false, NULL, err))
        return false;
    c->side = side;
    return true;
}

static bool command_verify(struct traffic *t, enum traffic_side side, struct error *err)
{
    enum traffic_side seen;
    bool held;

    if (command_of(t, "verify"))
        return run(t, "verify", side, own_deadline(t), false, NULL, err);
    if (!probe(t, false, &seen, &held, err))
        return false;
    return seen == side || error_set(err, ERR_TRAFFIC, "command \"probe\" says %s, not %s",
                                     traffic_side_name(seen), traffic_side_name(side));
}

static bool command_release(struct traffic *t, enum traffic_side side, struct error *err)
{
    struct commands *c = t->state;

    if (!run_if_given(t, "release", side, own_deadline(t), false, err))
        return false;
    c->side = side;
    return true;
}

static bool command_retire(struct traffic *t, struct error *err)
{
    (void) t;
    (void) err;
    return true;
}

static void command_describe(const struct traffic *t, struct strbuf *out)
{
    static const char *const keys[] = {"probe",        "prepare", "hold",    "switch_blue",
                                       "switch_green", "verify",  "release", NULL};

    strbuf_addf(out, "commands; traffic can%s be held\n", t->can_hold ? "" : "not");
    for (const char *const *key = keys; *key; key++)
        if (command_of(t, *key))
            strbuf_addf(out, "  %s: as the playbook says\n", *key);
}

const struct traffic_ops traffic_command = {
    .name = "command",
    .can_hold = true,
    .open = command_open,
    .close = command_close,
    .probe = command_probe,
    .prepare = command_prepare,
    .hold = command_hold,
    .switch_to = command_switch,
    .verify = command_verify,
    .release = command_release,
    .retire = command_retire,
    .describe = command_describe,
};
