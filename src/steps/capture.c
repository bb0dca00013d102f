/*
 * capture.c - the point from which nothing is missed: replica identities first (TRAPS 14), then the
 * publication, then the slot with its exported snapshot. The snapshot lives as long as the session
 * that made the slot stays idle; when that session is gone before the dump is whole, slot and spool
 * are void and made anew.
 */
#include "steps/steps.h"

#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/position.h"
#include "steps/keeper.h"

#include <stdlib.h>
#include <string.h>

static bool fix_identities(struct cutover *c, struct error *err)
{
    Oid *full = NULL;
    int changed = 0;
    bool ok = map_rules_need_full(&c->blue.cat, c->rules, c->nrules, &full, err) &&
              identity_fix(c->blue.pg, c->names.run, &c->blue.cat, full, &changed, err);

    free(full);
    if (ok && changed)
        event_info("replica identity set on %d tables of blue (put back at the end)", changed);
    return ok;
}

static bool drop_old_slot(struct cutover *c, struct error *err)
{
    char *dir = cutover_file(c, "spool");
    bool ok = slot_drop(c->blue.pg, c->names.slot, err);

    live_stop(c);
    ok = ok && spool_remove(dir, err);
    free(dir);
    return ok;
}

static bool make_slot(struct cutover *c, struct error *err)
{
    struct slot_snapshot snap;
    char lsn[LSN_SIZE];
    int64_t wait_us = playbook_us(cutover_section(c, "capture"), "slot_timeout");

    pg_close(c->exporter);
    c->exporter = NULL;
    if (!side_open(c, &c->blue, PG_WALSENDER, "snapshot", &c->exporter, err))
        return false;
    pg_set_deadline(c->exporter, clock_us() + wait_us);
    if (!journal_fact(c->journal, "slot", c->names.slot, err) ||
        !slot_create(c->exporter, c->blue.pg, c->names.slot, false, &snap, err))
        return false;
    pg_set_deadline(c->exporter, CLOCK_NONE);
    snprintf(c->snapshot, sizeof c->snapshot, "%s", snap.snapshot);
    event_info("slot %s at %s, snapshot %s", c->names.slot, lsn_str(lsn, snap.consistent_point),
               snap.snapshot);
    return FAULT("capture.slot-made", err) &&
           journal_fact(c->journal, "consistent_point", lsn_str(lsn, snap.consistent_point), err) &&
           fact_set(c->blue.pg, c->names.run, "slot", c->names.slot, err) &&
           fact_set(c->blue.pg, c->names.run, "consistent_point", lsn, err);
}

static bool remember_blue(struct cutover *c, struct error *err)
{
    char text[64];

    snprintf(text, sizeof text, "%llu/%u/%u", (unsigned long long) c->blue.identity.system_id,
             c->blue.identity.timeline, c->blue.identity.database_oid);
    return journal_fact(c->journal, "blue_identity", text, err) &&
           journal_fact(c->journal, "blue_fingerprint", c->blue.cat.fingerprint, err);
}

bool step_capture(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return side_load(c, &c->blue, err) && fix_identities(c, err) &&
           FAULT("capture.identities", err) &&
           publication_create(c->blue.pg, c->names.publication, &c->blue.cat, err) &&
           drop_old_slot(c, err) && make_slot(c, err) && side_load(c, &c->blue, err) &&
           remember_blue(c, err) && live_start_capture(c, err);
}

bool step_capture_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    char *dir = cutover_file(c, "spool");
    bool ok;

    pg_close(c->exporter);
    c->exporter = NULL;
    live_stop(c);
    ok = side_connect(c, &c->blue, err) && slot_drop(c->blue.pg, c->names.slot, err) &&
         publication_drop(c->blue.pg, c->names.publication, err) &&
         identity_restore(c->blue.pg, c->names.run, err) && spool_remove(dir, err);
    free(dir);
    return ok;
}

/* The identity that the run began with: a failed-over blue has another timeline. */
static bool same_blue(struct cutover *c, struct error *err)
{
    const char *text = journal_get_fact(c->journal, "blue_identity");
    struct pg_identity was = {0};
    unsigned long long id = 0;

    if (!text || sscanf(text, "%llu/%u/%u", &id, &was.timeline, &was.database_oid) != 3)
        return true;
    was.system_id = id;
    if (pg_same_server(&was, &c->blue.identity) &&
        was.database_oid == c->blue.identity.database_oid)
        return true;
    error_set(err, ERR_VOID, "blue is not the database that this run began with (%s then)", text);
    return error_hint(
        err,
        "A failover or another database behind the same name: the clone is void. `pgcutover "
        "abort %s`, then run anew.",
        c->names.run);
}

/* DDL that came while no process looked: what was cloned and captured is not what is there. */
static bool same_schema(struct cutover *c, struct error *err)
{
    const char *was = journal_get_fact(c->journal, "blue_fingerprint");

    if (!was || strcmp(was, c->blue.cat.fingerprint) == 0)
        return true;
    error_set(err, ERR_VOID, "blue's schema is not the one that this run began with");
    return error_hint(
        err,
        "DDL was done there meanwhile: the clone is void. `pgcutover abort %s`, then run anew.",
        c->names.run);
}

static bool slot_stands(struct cutover *c, struct error *err)
{
    struct slot_info slot;

    if (!slot_read(c->blue.pg, c->names.slot, &slot, err))
        return false;
    if (slot.exists && strcmp(slot.wal_status, "lost") != 0)
        return true;
    error_set(err, ERR_VOID, "slot %s on blue is %s", c->names.slot, slot.exists ? "lost" : "gone");
    return error_hint(
        err, "Changes were missed: the clone is void. `pgcutover abort %s`, then run anew.",
        c->names.run);
}

bool step_capture_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    if (c->decided)
        return true;
    if (!side_load(c, &c->blue, err) || !same_blue(c, err) || !same_schema(c, err))
        return false;
    /* Without its snapshot an archive that isn't whole can't be made any more: the dump step
     * captures anew. */
    if (engine_state(&c->engine, "dump") != STEP_DONE)
        return true;
    return slot_stands(c, err) && live_start_capture(c, err);
}

void describe_capture(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addstr(out, "on blue: ALTER TABLE ... REPLICA IDENTITY FULL where an identity is "
                       "missing or a rule needs it\n");
    strbuf_addf(out,
                "on blue: CREATE PUBLICATION %s FOR TABLE every leaf table, pgcutover.marker\n",
                c->names.publication);
    strbuf_addf(
        out,
        "on blue: CREATE_REPLICATION_SLOT %s LOGICAL pgoutput EXPORT_SNAPSHOT (waits for open "
        "transactions, at most %s)\n",
        c->names.slot, playbook_str(cutover_section(c, "capture"), "slot_timeout"));
}
