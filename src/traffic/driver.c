/* driver.c - the registry, and what is the same for every driver: events, fault points, context of
 * errors. */
#include "private.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

static const struct traffic_ops *const drivers[] = {&traffic_pgbouncer, &traffic_command};

static const struct traffic_ops *find_driver(const char *name)
{
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++)
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    return NULL;
}

bool traffic_open(struct traffic **out, const struct playbook_section *section,
                  const struct traffic_context *context, struct error *err)
{
    const char *name = playbook_str(section, "driver");
    const struct traffic_ops *ops = find_driver(name ? name : "");
    struct traffic *t;

    *out = NULL;
    if (!ops)
        return error_set(err, ERR_PLAYBOOK, "[traffic %s] has no driver \"%s\"",
                         playbook_section_name(section), name ? name : "");
    t = xcalloc(1, sizeof *t);
    t->ops = ops;
    t->section = section;
    t->context = *context;
    t->context.run = xstrdup(context->run);
    t->context.log_path = xstrdup(context->log_path);
    t->can_hold = ops->can_hold;
    if (!ops->open(t, err)) {
        traffic_close(t);
        return false;
    }
    *out = t;
    return true;
}

void traffic_close(struct traffic *t)
{
    if (!t)
        return;
    t->ops->close(t);
    free((char *) (uintptr_t) t->context.run);
    free((char *) (uintptr_t) t->context.log_path);
    free(t);
}

const char *traffic_name(const struct traffic *t)
{
    return playbook_section_name(t->section);
}

bool traffic_can_hold(const struct traffic *t)
{
    return t->can_hold;
}

const char *traffic_side_name(enum traffic_side side)
{
    static const char *const names[] = {"unknown", "blue", "green", "mixed"};
    return names[side];
}

const char *traffic_real_side(enum traffic_side side)
{
    return side == TRAFFIC_BLUE || side == TRAFFIC_GREEN ? traffic_side_name(side) : NULL;
}

/* ---- the verbs ---- */

/* "traffic.switch.before" */
static bool fault(const char *verb, const char *when, struct error *err)
{
    char *name = xstrfmt("traffic.%s.%s", verb, when);
    bool ok = FAULT(name, err);
    free(name);
    return ok;
}

static void tell(const struct traffic *t, const char *done, enum traffic_side side,
                 int64_t began_us)
{
    char took[CLOCK_HUMAN_SIZE];
    const char *to = traffic_real_side(side);

    clock_human(took, clock_us() - began_us);
    event_info("traffic %s: %s%s%s in %s", traffic_name(t), done, to ? " " : "", to ? to : "",
               took);
}

static bool finish(struct traffic *t, const char *verb, const char *done, enum traffic_side side,
                   int64_t began_us, bool ok, struct error *err)
{
    ok = ok && fault(verb, "after", err);
    if (!ok)
        return error_push(err, "traffic %s: %s", traffic_name(t), verb);
    if (done)
        tell(t, done, side, began_us);
    return true;
}

static void must_be_real(const char *verb, enum traffic_side side)
{
    if (!traffic_real_side(side))
        BUG("traffic_%s to side %s", verb, traffic_side_name(side));
}

bool traffic_probe(struct traffic *t, enum traffic_side *side, bool *held, struct error *err)
{
    *side = TRAFFIC_UNKNOWN;
    *held = false;
    bool ok = fault("probe", "before", err) && t->ops->probe(t, side, held, err);
    return finish(t, "probe", NULL, *side, 0, ok, err);
}

bool traffic_check(struct traffic *t, struct error *err)
{
    return !t->ops->check || t->ops->check(t, err);
}

bool traffic_prepare(struct traffic *t, struct error *err)
{
    int64_t began = clock_us();
    bool ok = fault("prepare", "before", err) && t->ops->prepare(t, err);
    return finish(t, "prepare", "prepared", TRAFFIC_UNKNOWN, began, ok, err);
}

bool traffic_hold(struct traffic *t, int64_t deadline_us, struct error *err)
{
    int64_t began = clock_us();
    bool ok = fault("hold", "before", err);

    if (ok && !t->can_hold)
        ok = error_set(err, ERR_TRAFFIC, "this driver can't hold traffic");
    ok = ok && t->ops->hold(t, deadline_us, err);
    return finish(t, "hold", "held", TRAFFIC_UNKNOWN, began, ok, err);
}

bool traffic_switch(struct traffic *t, enum traffic_side side, int64_t deadline_us,
                    struct error *err)
{
    int64_t began = clock_us();

    must_be_real("switch", side);
    bool ok = fault("switch", "before", err) && t->ops->switch_to(t, side, deadline_us, err);
    return finish(t, "switch", "switched to", side, began, ok, err);
}

bool traffic_verify(struct traffic *t, enum traffic_side side, struct error *err)
{
    int64_t began = clock_us();

    must_be_real("verify", side);
    bool ok = fault("verify", "before", err) && t->ops->verify(t, side, err);
    return finish(t, "verify", "read back", side, began, ok, err);
}

bool traffic_release(struct traffic *t, enum traffic_side side, struct error *err)
{
    int64_t began = clock_us();

    must_be_real("release", side);
    bool ok = fault("release", "before", err) && t->ops->release(t, side, err);
    return finish(t, "release", "released to", side, began, ok, err);
}

bool traffic_retire(struct traffic *t, struct error *err)
{
    int64_t began = clock_us();
    bool ok = fault("retire", "before", err) && t->ops->retire(t, err);
    return finish(t, "retire", "retired", TRAFFIC_UNKNOWN, began, ok, err);
}

void traffic_describe(const struct traffic *t, struct strbuf *out)
{
    strbuf_addf(out, "traffic %s: ", traffic_name(t));
    t->ops->describe(t, out);
}
