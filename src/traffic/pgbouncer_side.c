/* pgbouncer_side.c - which side PgBouncer's aliases point at, and which of them are held. What that
 * means is in pgbouncer.c. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

const struct target *bouncer_target(const struct pgbouncer *b, enum traffic_side side)
{
    return &b->target[side == TRAFFIC_GREEN];
}

const char *bouncer_alias(const struct pgbouncer *b, enum traffic_side side)
{
    return bouncer_two(b) && side == TRAFFIC_GREEN ? b->new_database : b->database;
}

enum traffic_side bouncer_other(enum traffic_side side)
{
    return side == TRAFFIC_GREEN ? TRAFFIC_BLUE : TRAFFIC_GREEN;
}

enum traffic_side bouncer_side_of(const struct pgbouncer *b, const struct target *target)
{
    if (target_same(target, bouncer_target(b, TRAFFIC_BLUE)))
        return TRAFFIC_BLUE;
    if (target_same(target, bouncer_target(b, TRAFFIC_GREEN)))
        return TRAFFIC_GREEN;
    return TRAFFIC_UNKNOWN;
}

bool bouncer_file_side(const struct pgbouncer *b, const char *alias, enum traffic_side *side,
                       struct error *err)
{
    struct target target;
    const char *why = NULL;
    char *value = NULL;

    *side = TRAFFIC_UNKNOWN;
    if (!alias_read(b->file, alias, &value, err))
        return false;
    if (target_parse(&target, value, alias, &why)) {
        *side = bouncer_side_of(b, &target);
        target_release(&target);
    }
    free(value);
    return true;
}

static bool not_there(const struct pooler *p, const char *alias, const struct target *is,
                      const struct target *wanted, struct error *err)
{
    char *seen = target_describe(is);
    char *want = target_describe(wanted);

    error_set(err, ERR_TRAFFIC, "\"%s\" on PgBouncer at %s points at %s, not at %s", alias,
              console_where(p->second), seen, want);
    free(seen);
    free(want);
    return false;
}

bool pooler_points_at(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                      const char *alias, enum traffic_side side, struct error *err)
{
    struct alias_state state = {0};
    bool ok = bouncer_show_alias(p->second, how, alias, &state, err) &&
              (target_same(&state.target, bouncer_target(b, side)) ||
               not_there(p, alias, &state.target, bouncer_target(b, side), err));

    alias_state_release(&state);
    return ok;
}

bool bouncer_points_at(struct pgbouncer *b, const struct patience *how, const char *alias,
                       enum traffic_side side, struct error *err)
{
    for (size_t i = 0; i < b->npoolers; i++)
        if (!pooler_points_at(b, &b->poolers[i], how, alias, side, err))
            return false;
    return true;
}

/* What all poolers (and the file) say together. */
static enum traffic_side join(enum traffic_side a, enum traffic_side b)
{
    if (a == b)
        return a;
    return a == TRAFFIC_UNKNOWN || b == TRAFFIC_UNKNOWN ? TRAFFIC_UNKNOWN : TRAFFIC_MIXED;
}

struct seen {
    enum traffic_side side;
    size_t paused;
};

static bool look_at_all(struct pgbouncer *b, const struct patience *how, const char *alias,
                        struct seen *seen, struct error *err)
{
    *seen = (struct seen){0};
    for (size_t i = 0; i < b->npoolers; i++) {
        struct alias_state state = {0};
        if (!bouncer_show_alias(b->poolers[i].second, how, alias, &state, err))
            return false;
        enum traffic_side side = bouncer_side_of(b, &state.target);
        seen->side = i == 0 ? side : join(seen->side, side);
        seen->paused += state.paused;
        alias_state_release(&state);
    }
    return true;
}

/* A disagreement is told once, not at every look. */
static void say(struct pgbouncer *b, char *text)
{
    if (text && (!b->said || strcmp(text, b->said) != 0))
        event_warn("traffic %s: %s", traffic_name(b->t), text);
    free(b->said);
    b->said = text;
}

static bool probe_one(struct pgbouncer *b, const struct patience *how, enum traffic_side *side,
                      bool *held, struct error *err)
{
    struct seen seen;
    enum traffic_side file;
    char *text = NULL;

    if (!look_at_all(b, how, b->database, &seen, err) ||
        !bouncer_file_side(b, b->database, &file, err))
        return false;
    *side = join(seen.side, file);
    *held = seen.paused > 0;
    if (seen.side != file)
        text =
            xstrfmt("PgBouncer points \"%s\" at %s, its file at %s: a restart would move traffic",
                    b->database, traffic_side_name(seen.side), traffic_side_name(file));
    else if (*held && seen.paused < b->npoolers)
        text = xstrfmt("\"%s\" is held on %zu of %zu PgBouncers", b->database, seen.paused,
                       b->npoolers);
    say(b, text);
    return true;
}

static bool probe_two(struct pgbouncer *b, const struct patience *how, enum traffic_side *side,
                      bool *held, struct error *err)
{
    struct seen old, new;

    if (!look_at_all(b, how, b->database, &old, err) ||
        !look_at_all(b, how, b->new_database, &new, err))
        return false;
    bool old_held = old.paused == b->npoolers;
    bool new_held = new.paused == b->npoolers;
    *held = old_held && new_held;
    if (*held)
        *side = b->served;
    else if (new_held && old.paused == 0)
        *side = TRAFFIC_BLUE;
    else if (old_held && new.paused == 0)
        *side = TRAFFIC_GREEN;
    else
        *side = TRAFFIC_MIXED;
    say(b, NULL);
    return true;
}

bool bouncer_sides(struct pgbouncer *b, const struct patience *how, enum traffic_side *side,
                   bool *held, struct error *err)
{
    return bouncer_two(b) ? probe_two(b, how, side, held, err) : probe_one(b, how, side, held, err);
}

bool bouncer_other_held(struct pgbouncer *b, enum traffic_side side, const struct patience *how,
                        struct error *err)
{
    const char *idle = bouncer_alias(b, bouncer_other(side));
    struct seen seen;

    if (!bouncer_points_at(b, how, idle, bouncer_other(side), err) ||
        !look_at_all(b, how, idle, &seen, err))
        return false;
    return seen.paused == b->npoolers ||
           error_set(err, ERR_TRAFFIC, "\"%s\" is held on %zu of %zu PgBouncers", idle, seen.paused,
                     b->npoolers);
}
