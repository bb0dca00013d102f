/* run.c - what the history lacks, in order, under the lock. */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "sys/process.h"

#include <stdio.h>
#include <stdlib.h>

static bool is_pending(const struct session *s, const struct migration *m)
{
    const struct applied *a = history_find(s, m->version);
    return !a || (m->repeatable && strcmp(a->checksum, m->checksum) != 0);
}

static size_t count_pending(struct session *s, const struct migration_list *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (!is_pending(s, &l->items[i]))
            continue;
        s->total += (int64_t) l->items[i].nstatements;
        n++;
    }
    return n;
}

/*
 * As at the beginning: no file inherits another's settings or role. The advisory lock stays
 * (DISCARD ALL would drop it). green's database may have blue's default of read-only transactions.
 */
static bool reset_session(struct session *s, struct error *err)
{
    char timeout[64];
    const char *newer = pg_version(s->pg) >= 170000
                            ? "; SET idle_session_timeout = 0; SET transaction_timeout = 0"
                        : pg_version(s->pg) >= 140000 ? "; SET idle_session_timeout = 0"
                                                      : "";

    s->file = NULL;
    s->line = 0;
    snprintf(timeout, sizeof timeout, "%lld", (long long) (s->o->lock_timeout_us / 1000));
    return pg_execf(s->pg, err,
                    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SET lock_timeout = %s; "
                    "SET default_transaction_read_only = off%s",
                    timeout, newer);
}

/* A file may have let go of our lock (DISCARD ALL, pg_advisory_unlock_all); taking it once more
 * costs nothing. */
static bool keep_lock(struct session *s, struct error *err)
{
    char *held = NULL;
    if (!pg_value(s->pg, &held,
                  "SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' "
                  "AND granted "
                  "AND pid = pg_catalog.pg_backend_pid()",
                  0, NULL, err))
        return false;
    bool lost = strcmp(held, "0") == 0;
    free(held);
    return !lost || migrate_lock(s, err);
}

static bool statements_in_transaction(struct session *s, const struct migration *m,
                                      const struct script *script, struct error *err)
{
    size_t finished = 0;
    bool ok =
        resume_point(s, m, script, &finished, err) && resume_settings(s, m, script, finished, err);
    for (size_t n = finished; ok && n < script->n; n++)
        ok = statement_run(s, m, script, n, err);
    return ok;
}

/* The history row in the open transaction. */
static bool enter(struct session *s, const struct migration *m, int64_t began, struct error *err)
{
    return FAULT("migrate.before-history", err) && history_add(s, m, clock_us() - began, err);
}

static void warn_alone(const struct session *s, const struct migration *m)
{
    if (m->own_transactions && s->o->transaction == MIGRATE_EACH)
        event_warn("%s: the file says BEGIN or COMMIT itself, so it is not run as one transaction; "
                   "to say that this "
                   "is meant, put \"-- pgcutover:no-transaction\" into its first line",
                   m->file);
}

static bool run_alone(struct session *s, const struct migration *m, const struct script *script,
                      struct error *err)
{
    int64_t began = clock_us();

    warn_alone(s, m);
    if (!resume_run_alone(s, m, script, err))
        return false;
    bool ok = pg_begin(s->pg, "", err) && enter(s, m, began, err) && pg_commit(s->pg, err);
    if (!ok)
        pg_rollback(s->pg);
    return ok;
}

static bool run_as_transaction(struct session *s, const struct migration *m,
                               const struct script *script, struct error *err)
{
    int64_t began = clock_us();
    bool ok = pg_begin(s->pg, "", err) && statements_in_transaction(s, m, script, err) &&
              enter(s, m, began, err) &&
              statement_commit(s, m, script->items[script->n - 1].line, err);
    if (!ok)
        pg_rollback(s->pg);
    return ok;
}

static bool run_file(struct session *s, const struct migration *m, struct error *err)
{
    struct script script = {0};
    int64_t began = clock_us();
    char took[CLOCK_HUMAN_SIZE];
    bool alone = s->o->transaction == MIGRATE_NONE || m->no_transaction;
    bool ok = migrate_load(m, &script, err) && keep_lock(s, err) && reset_session(s, err) &&
              (alone ? run_alone(s, m, &script, err) : run_as_transaction(s, m, &script, err));

    script_release(&script);
    if (!ok)
        return false;
    clock_human(took, clock_us() - began);
    event_info("migrated %s (%s)", m->file, took);
    return FAULT("migrate.after-commit", err);
}

static bool run_each(struct session *s, const struct migration_list *l, int *applied,
                     struct error *err)
{
    for (size_t i = 0; i < l->n; i++) {
        if (!is_pending(s, &l->items[i]))
            continue;
        if (!run_file(s, &l->items[i], err))
            return false;
        ++*applied;
    }
    return true;
}

static bool refuse_alone(const struct session *s, const struct migration_list *l, struct error *err)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct migration *m = &l->items[i];
        if (!m->no_transaction || !is_pending(s, m))
            continue;
        error_set(err, ERR_MIGRATION,
                  "%s can't run inside a transaction, and transaction = all demands it", m->file);
        return error_hint(err, "Set transaction = each in the playbook's [migrations].");
    }
    return true;
}

static bool run_inside(struct session *s, const struct migration *m, struct error *err)
{
    struct script script = {0};
    int64_t began = clock_us();
    bool ok = migrate_load(m, &script, err) && statements_in_transaction(s, m, &script, err) &&
              enter(s, m, began, err) && reset_session(s, err);
    script_release(&script);
    return ok;
}

static bool run_all(struct session *s, const struct migration_list *l, int *applied,
                    struct error *err)
{
    const struct migration *last = NULL;
    int n = 0;
    bool ok = refuse_alone(s, l, err) && pg_begin(s->pg, "", err);

    for (size_t i = 0; ok && i < l->n; i++) {
        if (!is_pending(s, &l->items[i]))
            continue;
        last = &l->items[i];
        ok = run_inside(s, last, err);
        n++;
    }
    ok = ok && last && statement_commit(s, last, 1, err);
    if (!ok) {
        pg_rollback(s->pg);
        return false;
    }
    *applied = n;
    return FAULT("migrate.after-commit", err);
}

static bool run_pending(struct session *s, const struct migration_list *l, int *applied,
                        struct error *err)
{
    if (!history_read(s, err) || !history_check(s, l, err))
        return false;
    size_t pending = count_pending(s, l);
    if (pending == 0) {
        event_info("nothing to migrate: all %zu files are in %s", l->n, s->history);
        return true;
    }
    event_info("%zu of %zu migration files to run", pending, l->n);
    s->watch = watch_start(s->o, pg_pid(s->pg));
    bool ok = s->o->transaction == MIGRATE_ALL ? run_all(s, l, applied, err)
                                               : run_each(s, l, applied, err);
    watch_stop(s->watch);
    s->watch = NULL;
    return ok;
}

static bool open_session(struct session *s, struct error *err)
{
    /* files are UTF-8: the parser reads them so, and so must the server */
    return pg_open(&s->pg, s->o->conninfo, s->o->dbname, PG_MIGRATE, s->o->run, "migrate", "UTF8",
                   err) &&
           statement_log_open(s, err) && reset_session(s, err) && migrate_lock(s, err);
}

bool migrate_run(const struct migration_list *l, const struct migrate_options *o, int *applied,
                 struct error *err)
{
    struct session s = {.o = o, .log_fd = -1};

    *applied = 0;
    bool ok = open_session(&s, err) && history_install(&s, err) && run_pending(&s, l, applied, err);
    pg_close(s.pg);
    statement_log_close(&s);
    history_release(&s);
    return ok;
}

bool migrate_command(const char *command, const struct migrate_options *o, struct error *err)
{
    struct session s = {.o = o, .log_fd = -1};
    struct process_options options = {.log_path = o->log_path};
    char **env = NULL;
    /* the lock is held by an idle session: no transaction that CREATE INDEX CONCURRENTLY would wait
     * for */
    bool ok = pg_open(&s.pg, o->conninfo, o->dbname, PG_MIGRATE, o->run, "migrate", "UTF8", err) &&
              reset_session(&s, err) && migrate_lock(&s, err) &&
              pg_child_env(o->conninfo, o->dbname, &env, err);

    if (ok) {
        options.env = (const char *const *) (uintptr_t) env;
        ok = process_shell(command, &options, err);
        if (!ok && err->code == ERR_CHILD) {
            err->code = ERR_MIGRATION;
            error_hint(
                err, "Its output is in %s; mend the cause, then resume: the command is run again.",
                o->log_path ? o->log_path : "the log");
        }
    }
    pg_free_env(env);
    pg_close(s.pg);
    return ok;
}
