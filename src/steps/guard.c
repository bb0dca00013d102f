/* guard.c - our schema on blue, the advisory lock, and the event trigger that refuses DDL. */
#include "steps/steps.h"

#include "base/event.h"
#include "pg/facts.h"
#include "pg/fence.h"

#include <string.h>

static bool refuses_ddl(const struct cutover *c)
{
    return !c->rehearsal &&
           strcmp(playbook_str(cutover_section(c, "fence"), "guard"), "refuse") == 0;
}

bool step_guard(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    bool made = false;

    if (!side_connect(c, &c->blue, err) || !side_lock(c, &c->blue, err) ||
        !facts_install(c->blue.pg, c->names.run, err) ||
        !arbiter_forget(c->blue.pg, c->names.run, err) ||
        !fact_set(c->blue.pg, c->names.run, "directory", c->dir.path, err))
        return false;
    if (!refuses_ddl(c))
        return true;
    if (!guard_install(c->blue.pg, c->names.run, &made, err))
        return false;
    if (!made)
        event_warn("no right to create event triggers on blue: DDL there is not refused, but "
                   "noticed, and ends the run");
    return !made || journal_fact(c->journal, "guarded", "yes", err);
}

bool step_guard_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return side_connect(c, &c->blue, err) && guard_drop(c->blue.pg, c->names.run, err) &&
           facts_uninstall(c->blue.pg, c->names.run, err);
}

bool step_guard_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    /* Decided: blue may be down for good, and green is to go on without it. */
    return c->decided || (side_connect(c, &c->blue, err) && side_lock(c, &c->blue, err));
}

void describe_guard(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out, "on blue: CREATE SCHEMA pgcutover and its tables (facts of run %s)\n",
                c->names.run);
    if (refuses_ddl(c))
        strbuf_addstr(
            out,
            "on blue: CREATE EVENT TRIGGER (ddl_command_end, sql_drop) refusing all but temporary "
            "objects\n");
}
