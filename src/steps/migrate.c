/* migrate.c - the release's migrations on green, the map that they make, and green's fence. */
#include "migrate/migrate.h"

#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/fence.h"
#include "pg/sequence.h"
#include "pg/trigger.h"
#include "steps/new_tables.h"
#include "steps/steps.h"
#include "sys/file.h"

#include <stdlib.h>
#include <string.h>

#define GREEN_FENCE_MS 30000

/* TRAPS 26: what the migrations draw from sequences must not collide with what blue hands out
 * meanwhile. */
static bool push_sequences(struct cutover *c, struct error *err)
{
    int64_t gap = playbook_int(cutover_section(c, "migrations"), "sequence_gap");
    char *done = NULL;
    bool ok = fact_get(c->green.pg, c->names.run, "sequence_gap", &done, err);

    if (ok && !done && gap > 0)
        ok = side_load(c, &c->green, err) && sequence_push(c->green.pg, &c->green.cat, gap, err) &&
             fact_set(c->green.pg, c->names.run, "sequence_gap",
                      playbook_str(cutover_section(c, "migrations"), "sequence_gap"), err);
    free(done);
    return ok;
}

static void fill_options(struct cutover *c, struct migrate_options *o, char **log)
{
    const struct playbook_section *s = cutover_section(c, "migrations");
    const char *how = playbook_str(s, "transaction");

    *log = cutover_file(c, "logs/migrations.jsonl");
    *o = (struct migrate_options){.conninfo = c->green.conninfo,
                                  .dbname = c->green.dbname,
                                  .run = c->names.run,
                                  .history_table = playbook_str(s, "history_table"),
                                  .transaction = strcmp(how, "all") == 0    ? MIGRATE_ALL
                                                 : strcmp(how, "none") == 0 ? MIGRATE_NONE
                                                                            : MIGRATE_EACH,
                                  .lock_timeout_us = playbook_us(s, "lock_timeout"),
                                  .log_path = *log};
}

static bool run_migrations(struct cutover *c, struct error *err)
{
    const struct playbook_section *s = cutover_section(c, "migrations");
    const char *directory = playbook_str(s, "directory");
    const char *command = playbook_str(s, "command");
    struct migration_list list = {0};
    struct migrate_options o;
    char *log, *path = NULL;
    int applied = 0;
    bool ok = true;

    fill_options(c, &o, &log);
    if (directory) {
        path = xstrdup(directory);
        ok = migrate_list(path, &list, err) && migrate_run(&list, &o, &applied, err);
        if (ok)
            event_info("%d of %zu migration files applied now", applied, list.n);
    } else if (command) {
        ok = migrate_command(command, &o, err);
    }
    migrate_list_release(&list);
    free(path);
    free(log);
    return ok;
}

/* Everything that can't be mapped, said once, and printed to the run's directory. */
static bool map_is_sound(struct cutover *c, struct error *err)
{
    struct strbuf text = {0};
    char *path = cutover_file(c, "map.txt");
    size_t open = map_unresolved(&c->map);
    bool ok;

    map_print(&text, &c->map, true);
    ok = file_replace(path, text.data ? text.data : "", text.len, 0644, err);
    if (ok && open > 0) {
        error_set(err, ERR_NOGO, "%zu tables can't be mapped from blue's schema to green's", open);
        for (size_t i = 0; i < c->map.ntables; i++)
            if (c->map.tables[i].unresolved) {
                error_detail(err, "%s: %s", c->map.tables[i].source->sql_name,
                             c->map.tables[i].unresolved);
                break;
            }
        ok = error_hint(
            err,
            "%s shows all of the map. Add rules under [map schema.table], then `pgcutover resume "
            "%s --playbook FILE`.",
            path, c->names.run);
    }
    free(path);
    strbuf_release(&text);
    return ok;
}

/* Run again after they had been fenced, the migrations must be able to write. */
static bool unfence_green(struct cutover *c, struct error *err)
{
    enum fence_state state;

    return fence_state(c->green.pg, &state, err) &&
           (state == FENCE_NONE || fence_drop(c->green.pg, clock_in_ms(GREEN_FENCE_MS), err));
}

static bool fence_green(struct cutover *c, struct error *err)
{
    struct fence_options o = {.run = c->names.run,
                              .deadline_us = clock_in_ms(GREEN_FENCE_MS),
                              .lock_timeout_ms = 1000,
                              .deadlock_timeout_ms = 20,
                              .idle_limit_ms = GREEN_FENCE_MS};
    struct pg *control = NULL;
    bool ok = side_open(c, &c->green, PG_PLAIN, "fence-control", &control, err) &&
              fence_install(c->green.pg, control, &c->green.cat, &o, err);

    pg_close(control);
    return ok;
}

static bool silence_triggers(struct cutover *c, struct error *err)
{
    int n = 0;

    if (!triggers_silence(c->green.pg, c->names.run, &n, err))
        return false;
    if (n)
        event_info(
            "%d triggers that would fire for replayed rows are disabled on green until it opens",
            n);
    return true;
}

bool step_migrate(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return side_connect(c, &c->green, err) && unfence_green(c, err) && push_sequences(c, err) &&
           run_migrations(c, err) && FAULT("migrate.done", err) && live_check(c, err) &&
           side_load(c, &c->green, err) && fence_green(c, err) && live_load_map(c, err) &&
           map_is_sound(c, err) && new_tables_are_sound(c, err) && silence_triggers(c, err);
}

bool step_migrate_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return c->decided || live_load_map(c, err);
}

void describe_migrate(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;
    const struct playbook_section *s = cutover_section(c, "migrations");
    const char *directory = playbook_str(s, "directory");
    const char *command = playbook_str(s, "command");
    struct migration_list list = {0};
    struct error err = {0};

    strbuf_addf(out, "on green: every sequence pushed ahead by %s\n",
                playbook_str(s, "sequence_gap"));
    if (directory && (!migrate_list(directory, &list, &err) || !migrate_describe(&list, out, &err)))
        strbuf_addf(out, "migrations can't be read: %s\n", err.message);
    migrate_list_release(&list);
    if (command)
        strbuf_addf(out, "run, with PG* set to green: %s\n", command);
    strbuf_addstr(out, "on green: fence triggers on every table; the map derived\n");
}
