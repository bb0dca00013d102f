/* deploy.c - the new version of the application, and the traffic drivers made ready; the slot for
 * the way back. */
#include "base/alloc.h"
#include "base/event.h"
#include "base/clock.h"
#include "pg/slot.h"
#include "steps/commands.h"
#include "steps/steps.h"

#include <stdlib.h>
#include <string.h>

/* TRAPS 17: it waits for every transaction that is open in green's cluster. */
static bool make_back_slot(struct cutover *c, struct error *err)
{
    struct pg_blocker *list = NULL;
    struct strbuf text = {0};
    struct error ignored = {0};
    size_t n = 0;
    bool ok;

    pg_set_deadline(c->green.pg,
                    clock_us() + playbook_us(cutover_section(c, "capture"), "slot_timeout"));
    ok = slot_create_plain(c->green.pg, c->names.back_slot, err);
    pg_set_deadline(c->green.pg, CLOCK_NONE);
    if (!ok && err->code == ERR_TIMEOUT && pg_blockers(c->green.pg, 0, &list, &n, &ignored)) {
        pg_blockers_describe(&text, list, n);
        error_detail(err, "open on green's server:\n%s", strbuf_cstr(&text));
        error_hint(err, "End them, then type `pgcutover resume %s`.", c->names.run);
    }
    free(list);
    strbuf_release(&text);
    return ok;
}

bool step_reverse(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct slot_info slot;
    int changed = 0;

    /* TRAPS 14, on this side too: published without an identity, a table refuses UPDATE and DELETE.
     */
    if (!side_connect(c, &c->green, err) ||
        !identity_fix(c->green.pg, c->names.run, &c->green.cat, NULL, &changed, err) ||
        !publication_create(c->green.pg, c->names.back_publication, &c->green.cat, err) ||
        !slot_read(c->green.pg, c->names.back_slot, &slot, err))
        return false;
    return slot.exists || make_back_slot(c, err);
}

bool step_reverse_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    bool exists = false, ours = false;

    if (!green_is_there(c, &exists, &ours, err))
        return false;
    if (!exists)
        return true;
    /* Dropped before its database: a slot keeps a database from being dropped. */
    return side_connect(c, &c->green, err) && slot_drop(c->green.pg, c->names.back_slot, err) &&
           publication_drop(c->green.pg, c->names.back_publication, err) &&
           identity_restore(c->green.pg, c->names.run, err);
}

void describe_reverse(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out, "on green: CREATE PUBLICATION %s; logical slot %s\n",
                c->names.back_publication, c->names.back_slot);
}

/* Before the first switch traffic must be where we think it is. */
static bool ready_traffic(struct cutover *c, struct error *err)
{
    for (size_t i = 0; i < c->ntraffic; i++) {
        enum traffic_side side = TRAFFIC_UNKNOWN;
        bool held = false;

        if (!traffic_prepare(c->traffic[i], err) ||
            !traffic_probe(c->traffic[i], &side, &held, err))
            return error_push(err, "[traffic %s]", traffic_name(c->traffic[i]));
        if (side != TRAFFIC_BLUE) {
            error_set(err, ERR_TRAFFIC, "[traffic %s] points at %s, not at blue",
                      traffic_name(c->traffic[i]), traffic_side_name(side));
            return error_hint(err, "Point it at blue and type `pgcutover resume %s`.",
                              c->names.run);
        }
    }
    return true;
}

static bool wait_healthy(struct cutover *c, const struct playbook_section *s, struct error *err)
{
    int64_t deadline = clock_us() + playbook_us(s, "timeout");
    struct error last = {0};

    if (!playbook_str(s, "health"))
        return true;
    for (;;) {
        error_clear(&last);
        if (command_run(c, s, "health", "green", &last))
            return true;
        if (clock_passed(deadline)) {
            error_set(err, ERR_NOGO, "[deploy %s] is not healthy: %s", playbook_section_name(s),
                      last.message);
            return error_detail(err, "%s", last.detail);
        }
        if (!live_check(c, err))
            return false;
        clock_sleep_ms(100);
    }
}

bool step_deploy(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (!cutover_open_traffic(c, err) || !ready_traffic(c, err))
        return false;
    for (size_t i = 0; i < playbook_count(c->pb, "deploy"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "deploy", i);

        if (!command_run(c, s, "start", "green", err) || !wait_healthy(c, s, err))
            return error_push(err, "[deploy %s]", playbook_section_name(s));
    }
    return true;
}

bool step_deploy_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    bool ok = cutover_open_traffic(c, err);

    for (size_t i = playbook_count(c->pb, "deploy"); ok && i-- > 0;)
        ok = command_run(c, playbook_at(c->pb, "deploy", i), "stop", "blue", err);
    for (size_t i = 0; ok && i < c->ntraffic; i++)
        ok = traffic_retire(c->traffic[i], err);
    return ok;
}

bool step_deploy_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return cutover_open_traffic(c, err) && (c->decided || ready_traffic(c, err));
}

void describe_deploy(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    for (size_t i = 0; i < playbook_count(c->pb, "deploy"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "deploy", i);

        if (playbook_str(s, "start"))
            strbuf_addf(out, "run: %s\n", playbook_str(s, "start"));
        if (playbook_str(s, "health"))
            strbuf_addf(out, "run until it exits 0: %s\n", playbook_str(s, "health"));
    }
}
