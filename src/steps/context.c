/* context.c - opening a run over its directory, and its sessions. */
#include "steps/cutover.h"

#include "base/alloc.h"
#include "base/event.h"
#include "pg/facts.h"
#include "steps/keeper.h"
#include "steps/pause_guard.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

char *cutover_file(const struct cutover *c, const char *name)
{
    return rundir_file(&c->dir, name);
}

const struct playbook_section *cutover_section(const struct cutover *c, const char *kind)
{
    return playbook_section(c->pb, kind);
}

/* Slot names allow only lower case letters, digits and the underscore. */
static void name_objects(struct run_names *n, const char *run)
{
    char safe[48];
    size_t i;

    for (i = 0; run[i] && i < sizeof safe - 1; i++)
        safe[i] = isalnum((unsigned char) run[i]) ? (char) tolower((unsigned char) run[i]) : '_';
    safe[i] = '\0';
    snprintf(n->run, sizeof n->run, "%s", run);
    snprintf(n->slot, sizeof n->slot, "pgcutover_%s", safe);
    snprintf(n->publication, sizeof n->publication, "pgcutover_%s", safe);
    snprintf(n->back_slot, sizeof n->back_slot, "pgcutover_%s_b", safe);
    snprintf(n->back_publication, sizeof n->back_publication, "pgcutover_%s_b", safe);
}

static void collect_ups(const struct playbook_section *s, struct map_rule *rule)
{
    const char *tail, *value;
    size_t cap = 0;

    for (size_t i = 0; playbook_prefixed(s, "up.", i, &tail, &value); i++)
        *VEC_ADD(rule->up, rule->nup, cap) = (struct map_up){tail, value};
}

static void collect_rules(struct cutover *c)
{
    size_t cap = 0;

    for (size_t i = 0; i < playbook_count(c->pb, "map"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "map", i);
        struct map_rule *rule = VEC_ADD(c->rules, c->nrules, cap);

        *rule = (struct map_rule){.section = playbook_section_name(s),
                                  .line = playbook_section_line(s),
                                  .table = playbook_str(s, "table"),
                                  .skip = playbook_bool(s, "skip"),
                                  .key = playbook_list(s, "key"),
                                  .volatiles = playbook_list(s, "volatile")};
        collect_ups(s, rule);
    }
}

static bool open_side(struct side *s, const char *name, const struct playbook_section *section,
                      struct error *err)
{
    s->name = name;
    s->conninfo = playbook_str(section, "conninfo");
    return pg_conninfo_dbname(s->conninfo, &s->dbname, err) ||
           error_push(err, "[%s] conninfo", name);
}

bool cutover_open(struct cutover *c, struct playbook *pb, struct rundir *dir, bool write,
                  struct error *err)
{
    c->pb = pb;
    if (dir) {
        c->dir = *dir;
        *dir = (struct rundir){.lock_fd = -1};
        if (!(write ? journal_open(&c->journal, c->dir.path, err)
                    : journal_read(&c->journal, c->dir.path, err)))
            return false;
        name_objects(&c->names, c->dir.name);
        c->decided = journal_get_fact(c->journal, "decided") != NULL;
        c->rehearsal = journal_get_fact(c->journal, "rehearsal") != NULL;
    } else {
        c->dir.lock_fd = -1;
        name_objects(&c->names, playbook_str(playbook_section(pb, "cutover"), "name"));
    }
    if (!open_side(&c->blue, "blue", playbook_section(pb, "blue"), err) ||
        !open_side(&c->green, "green", playbook_section(pb, "green"), err))
        return false;
    if (c->rehearsal && journal_get_fact(c->journal, "rehearsal_database")) {
        const char *elsewhere = playbook_str(playbook_section(pb, "rehearsal"), "conninfo");

        if (elsewhere)
            c->green.conninfo = elsewhere;
        free(c->green.dbname);
        c->green.dbname = xstrdup(journal_get_fact(c->journal, "rehearsal_database"));
        c->keep_clone = playbook_bool(playbook_section(pb, "rehearsal"), "keep");
    }
    collect_rules(c);
    return true;
}

bool cutover_open_traffic(struct cutover *c, struct error *err)
{
    const char *compatible = playbook_str(cutover_section(c, "app"), "compatible");
    char *log = c->dir.path ? cutover_file(c, "logs/commands.log") : NULL;
    struct traffic_context context = {
        .run = c->names.run,
        .two_versions = strcmp(compatible, "switch") == 0,
        .log_path = log,
        .pause_us = playbook_us(cutover_section(c, "thresholds"), "write_pause")};
    size_t n = playbook_count(c->pb, "traffic");
    bool ok = true;

    if (!c->traffic)
        c->traffic = xcalloc(n + 1, sizeof *c->traffic);
    for (; ok && c->ntraffic < n; c->ntraffic += ok)
        ok = traffic_open(&c->traffic[c->ntraffic], playbook_at(c->pb, "traffic", c->ntraffic),
                          &context, err);
    free(log);
    return ok;
}

void side_disconnect(struct side *s)
{
    pg_close(s->pg);
    pg_close(s->lock);
    s->pg = s->lock = NULL;
}

void cutover_close(struct cutover *c)
{
    keeper_stop(c->keeper);
    c->keeper = NULL;
    control_stop(c->control);
    c->control = NULL;
    live_stop(c);
    pg_close(c->exporter);
    pg_close(c->pause.l);
    pguard_abandon(c->pause.guard); /* still there: the pause was not ended */
    for (size_t i = 0; i < c->ntraffic; i++)
        traffic_close(c->traffic[i]);
    free(c->traffic);
    side_disconnect(&c->blue);
    side_disconnect(&c->green);
    if (c->map_ready)
        map_release(&c->map);
    catalog_release(&c->before);
    catalog_release(&c->blue.cat);
    catalog_release(&c->green.cat);
    free(c->blue.dbname);
    free(c->green.dbname);
    for (size_t i = 0; i < c->nrules; i++)
        free(c->rules[i].up);
    free(c->rules);
    free(c->gate_text);
    if (c->engine.steps)
        engine_release(&c->engine);
    journal_close(c->journal);
    rundir_release(&c->dir);
    playbook_free(c->pb);
    *c = (struct cutover){.dir.lock_fd = -1};
}

bool side_open(struct cutover *c, const struct side *s, enum pg_kind kind, const char *worker,
               struct pg **out, struct error *err)
{
    return pg_open(out, s->conninfo, s->dbname, kind, c->names.run, worker, NULL, err) ||
           error_push(err, "%s", s->name);
}

bool side_connect(struct cutover *c, struct side *s, struct error *err)
{
    struct pg_identity now;

    if (s->pg && !pg_is_bad(s->pg))
        return true;
    pg_close(s->pg);
    s->pg = NULL;
    if (!side_open(c, s, PG_PLAIN, "control", &s->pg, err) || !pg_identify(s->pg, &now, err))
        return false;
    if (s->identity.system_id && !pg_same_server(&now, &s->identity)) {
        error_set(
            err, ERR_VOID,
            "%s is another server now: system identifier %llu timeline %u, was %llu timeline %u",
            s->name, (unsigned long long) now.system_id, now.timeline,
            (unsigned long long) s->identity.system_id, s->identity.timeline);
        return error_hint(
            err, "A failover took place. The clone is void: `pgcutover abort %s`, then run anew.",
            c->names.run);
    }
    s->identity = now;
    return true;
}

bool side_lock(struct cutover *c, struct side *s, struct error *err)
{
    if (s->lock && !pg_is_bad(s->lock))
        return true;
    pg_close(s->lock);
    s->lock = NULL;
    return side_open(c, s, PG_PLAIN, "lock", &s->lock, err) && run_lock(s->lock, err);
}

/* REPLICA IDENTITY FULL sends the primary key's values too: an immediate one still tells rows
 * apart. */
static void keep_primary_keys(struct catalog *cat)
{
    for (size_t i = 0; i < cat->ntables; i++) {
        struct cat_table *t = &cat->tables[i];

        if (t->nkey || !t->npk || t->pk_deferrable || t->replident == 'n')
            continue;
        t->key = xcalloc(t->npk, sizeof *t->key);
        memcpy(t->key, t->pk, t->npk * sizeof *t->key);
        t->nkey = t->npk;
    }
}

bool side_load(struct cutover *c, struct side *s, struct error *err)
{
    if (c->map_ready) {
        map_release(&c->map); /* it points into the catalogs */
        c->map_ready = false;
    }
    catalog_release(&s->cat);
    s->cat_loaded = false;
    s->cat = (struct catalog){0};
    if (!side_connect(c, s, err) || !catalog_load(s->pg, &s->cat, err))
        return error_push(err, "reading %s's catalog", s->name);
    keep_primary_keys(&s->cat);
    s->cat_loaded = true;
    return true;
}
