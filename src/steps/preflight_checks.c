/* preflight_checks.c - what can be checked without changing anything (DESIGN section 7). */
#include "base/alloc.h"
#include "base/human.h"
#include "migrate/migrate.h"
#include "pg/fence.h"
#include "pg/server.h"
#include "pg/slot.h"
#include "steps/preflight.h"
#include "sys/file.h"
#include "sys/process.h"

#include <stdlib.h>
#include <string.h>

#define OLDEST_VERSION 120000
#define OLD_TRANSACTION_US 60000000

static void add_error(struct check_list *l, const char *name, enum check_result result,
                      const struct error *err)
{
    check_add(l, name, result, err->hint[0] ? err->hint : "Mend it and run again.", "%s%s%s",
              err->message, err->detail[0] ? ": " : "", err->detail);
}

static void check_version(struct check_list *l, const char *name, const struct server_facts *f)
{
    bool ok = f->version >= OLDEST_VERSION;

    check_add(l, name, ok ? CHECK_PASS : CHECK_FAIL, "PostgreSQL 12 is the oldest that works.",
              "PostgreSQL %s", f->version_text);
}

static void check_wal(struct check_list *l, const struct server_facts *f, const char *name,
                      int slots)
{
    bool logical = strcmp(f->wal_level, "logical") == 0;

    check_add(l, name, logical ? CHECK_PASS : CHECK_FAIL,
              "Set wal_level = logical in postgresql.conf and restart the server.",
              "wal_level is %s", f->wal_level);
    check_add(l, name, f->used_slots + slots <= f->max_slots ? CHECK_PASS : CHECK_FAIL,
              "Raise max_replication_slots and restart, or drop a slot that nobody uses.",
              "%d of %d replication slots in use, %d needed", f->used_slots, f->max_slots, slots);
    check_add(l, name, f->used_senders + slots <= f->max_senders ? CHECK_PASS : CHECK_FAIL,
              "Raise max_wal_senders and restart.", "%d of %d WAL senders in use, %d needed",
              f->used_senders, f->max_senders, slots);
}

static void check_rights(struct cutover *c, struct check_list *l, const struct server_facts *f)
{
    check_add(l, "blue rights", f->superuser || f->replication ? CHECK_PASS : CHECK_FAIL,
              "Connect as a role with REPLICATION (ALTER ROLE ... REPLICATION), or as superuser.",
              "role %s: superuser %s, replication %s", f->user, f->superuser ? "yes" : "no",
              f->replication || f->superuser ? "yes" : "no");
    if (!f->superuser)
        check_add(l, "blue rights", CHECK_WARN,
                  "It must own the database and its tables; deadlock_timeout and the DDL guard "
                  "need superuser.",
                  "role %s is no superuser", f->user);
    if (strcmp(playbook_str(cutover_section(c, "fence"), "guard"), "refuse") == 0 &&
        !f->event_triggers_ok)
        check_add(l, "blue guard", CHECK_WARN,
                  "DDL on blue will be noticed and end the run, not refused.",
                  "role %s may not create event triggers", f->user);
}

static void check_identities(struct cutover *c, struct check_list *l)
{
    bool full = strcmp(playbook_str(cutover_section(c, "capture"), "no_primary_key"), "full") == 0;
    struct strbuf names = {0};
    size_t n = 0;

    for (size_t i = 0; i < c->blue.cat.ntables; i++) {
        const struct cat_table *t = &c->blue.cat.tables[i];

        if (t->relkind != 'r' || t->persistence != 'p' || t->nkey || t->replident == 'f')
            continue;
        if (n++ < 10)
            strbuf_addf(&names, "%s%s", names.len ? ", " : "", t->sql_name);
    }
    check_add(l, "blue identities",
              n == 0 ? CHECK_PASS
              : full ? CHECK_WARN
                     : CHECK_FAIL,
              full ? "They get REPLICA IDENTITY FULL while the run is on; their updates cost a "
                     "search each."
                   : "Give them a primary key, or set [capture] no_primary_key = full.",
              n == 0 ? "every table has a usable replica identity%s" : "tables without one: %s",
              strbuf_cstr(&names));
    strbuf_release(&names);
}

static void check_objects(struct cutover *c, struct check_list *l, const struct server_facts *f)
{
    struct error err = {0};
    char *names = NULL;

    check_add(l, "blue prepared transactions", f->prepared_transactions ? CHECK_FAIL : CHECK_PASS,
              "Commit or roll them back: a prepared transaction can commit after the fence.",
              "%d prepared transactions", f->prepared_transactions);
    check_add(l, "blue large objects", c->blue.cat.large_objects ? CHECK_FAIL : CHECK_PASS,
              "Logical decoding never carries large objects, and this version does not copy their "
              "changes: move them "
              "into bytea columns.",
              "%lld large objects", (long long) c->blue.cat.large_objects);
    if (f->unlogged_tables && server_tables_unlogged(c->blue.pg, &names, &err))
        check_add(
            l, "blue unlogged tables", CHECK_WARN,
            "Their changes after the dump are not carried over: green keeps what the dump held.",
            "unlogged: %s", names);
    free(names);
    names = NULL;
    if (f->invalid_constraints && server_constraints_not_valid(c->blue.pg, &names, &err))
        check_add(l, "blue constraints", CHECK_WARN,
                  "Rows that violate them may be there: VALIDATE CONSTRAINT tells.",
                  "NOT VALID: %s", names);
    free(names);
    check_add(l, "blue indexes", f->invalid_indexes ? CHECK_WARN : CHECK_PASS,
              "Drop or rebuild them; the clone would build them for good.", "%d invalid indexes",
              f->invalid_indexes);
    if (f->other_slots || f->subscriptions)
        check_add(l, "blue consumers", CHECK_WARN,
                  "They stay with blue and see nothing of what green takes after the switch.",
                  "%d other logical slots, %d subscriptions", f->other_slots, f->subscriptions);
    if (f->event_triggers)
        check_add(l, "blue event triggers", CHECK_WARN,
                  "They are cloned and act on green's migrations as well.", "%d event triggers",
                  f->event_triggers);
    if (c->blue.cat.foreign_tables)
        check_add(l, "blue foreign tables", CHECK_WARN,
                  "Their data is elsewhere and is not compared.", "%lld foreign tables",
                  (long long) c->blue.cat.foreign_tables);
    if (c->blue.cat.matviews)
        check_add(l, "blue materialised views", CHECK_WARN,
                  "Refresh them on green before the gate.",
                  "%lld materialised views hold what they held at the dump",
                  (long long) c->blue.cat.matviews);
}

/* A fence left by a run that was finished without --unfence-blue. */
static void check_fence(struct cutover *c, struct check_list *l)
{
    enum fence_state state;
    struct error err = {0};

    if (fence_state(c->blue.pg, &state, &err))
        check_add(l, "blue fence", state == FENCE_NONE ? CHECK_PASS : CHECK_FAIL,
                  "An earlier run's fence stands here: is this database the one that serves? "
                  "`pgcutover finish RUN "
                  "--unfence-blue` of that run takes it away.",
                  state == FENCE_NONE ? "none stands" : "fence triggers stand on blue");
}

static void check_open_transactions(struct cutover *c, struct check_list *l)
{
    struct pg_blocker *list = NULL;
    struct error err = {0};
    struct strbuf text = {0};
    size_t n = 0;

    if (!pg_blockers(c->blue.pg, OLD_TRANSACTION_US, &list, &n, &err)) {
        add_error(l, "blue transactions", CHECK_WARN, &err);
        return;
    }
    pg_blockers_describe(&text, list, n);
    check_add(
        l, "blue transactions", n ? CHECK_WARN : CHECK_PASS,
        "Creating the slot waits for them, in every database of the cluster; end them, or wait.",
        n ? "open for over a minute:\n%s" : "none open for over a minute%s", strbuf_cstr(&text));
    strbuf_release(&text);
    free(list);
}

static void check_locks(struct check_list *l, const struct server_facts *f,
                        const struct catalog *cat)
{
    check_add(l, "blue locks", (int64_t) cat->ntables * 2 < f->max_locks ? CHECK_PASS : CHECK_FAIL,
              "Raise max_locks_per_transaction: the fence locks every table in one transaction.",
              "%zu tables, room for %lld locks", cat->ntables, (long long) f->max_locks);
}

static void check_slot_limit(struct cutover *c, struct check_list *l, const struct server_facts *f)
{
    int64_t budget = playbook_bytes(cutover_section(c, "capture"), "wal_budget");
    char have[HUMAN_SIZE];

    if (f->slot_keep_bytes >= 0)
        check_add(
            l, "blue WAL", f->slot_keep_bytes >= budget ? CHECK_PASS : CHECK_WARN,
            "A slot that falls behind it is lost, and with it the clone: raise it for the run.",
            "max_slot_wal_keep_size is %s", human_bytes(have, f->slot_keep_bytes));
}

void preflight_blue(struct cutover *c, struct check_list *l)
{
    struct server_facts f;
    struct error err = {0};

    if (!side_connect(c, &c->blue, &err) || !server_facts_read(c->blue.pg, &f, &err)) {
        add_error(l, "blue", CHECK_FAIL, &err);
        return;
    }
    check_version(l, "blue version", &f);
    if (f.version < OLDEST_VERSION)
        return;
    check_add(l, "blue role", f.in_recovery ? CHECK_FAIL : CHECK_PASS,
              "Name the primary in [blue] conninfo.",
              f.in_recovery ? "is a standby" : "is a primary, database %s", c->blue.dbname);
    check_wal(l, &f, "blue replication", 2);
    check_rights(c, l, &f);
    if (!side_load(c, &c->blue, &err)) {
        add_error(l, "blue catalog", CHECK_FAIL, &err);
        return;
    }
    check_identities(c, l);
    check_fence(c, l);
    check_objects(c, l, &f);
    check_open_transactions(c, l);
    check_locks(l, &f, &c->blue.cat);
    check_slot_limit(c, l, &f);
}

static void check_green_database(struct cutover *c, struct check_list *l)
{
    bool create = c->rehearsal || playbook_bool(cutover_section(c, "green"), "create");
    bool exists = false, ours = false;
    struct server_facts f;
    struct error err = {0};

    if (!server_database_exists(c->green.conninfo, c->green.dbname, &exists, &ours, c->names.run,
                                &err)) {
        add_error(l, "green", CHECK_FAIL, &err);
        return;
    }
    if (create) {
        check_add(
            l, "green database", exists && !ours ? CHECK_FAIL : CHECK_PASS,
            "Name a database that does not exist in [green] conninfo, or drop that one yourself.",
            exists && !ours ? "database %s exists and is not a clone of this run"
                            : "database %s will be made",
            c->green.dbname);
        return;
    }
    if (!exists || !side_connect(c, &c->green, &err) || !server_facts_read(c->green.pg, &f, &err)) {
        if (!exists)
            error_set(&err, ERR_NOGO, "database %s does not exist and [green] create = no",
                      c->green.dbname);
        add_error(l, "green database", CHECK_FAIL, &err);
        return;
    }
    check_add(l, "green database", f.user_objects && !ours ? CHECK_FAIL : CHECK_PASS,
              "Green must be empty: the clone is made there.", "%d user objects in %s",
              f.user_objects, c->green.dbname);
}

/* A session on green's server for its facts, through a database that is there. */
static bool green_facts(struct cutover *c, struct server_facts *f, struct check_list *l)
{
    static const char *const homes[] = {"postgres", "template1"};
    struct error err = {0};
    struct pg *pg = NULL;
    bool ok = false;

    for (size_t i = 0; i < 2 && !ok; i++) {
        error_clear(&err);
        if (!pg_open(&pg, c->green.conninfo, homes[i], PG_PLAIN, c->names.run, "preflight", NULL,
                     &err))
            continue;
        ok = server_facts_read(pg, f, &err);
        if (ok && c->blue.pg) {
            char *roles = NULL, *extensions = NULL;

            if (server_missing_roles(c->blue.pg, pg, &roles, &err))
                check_add(l, "green roles", *roles ? CHECK_FAIL : CHECK_PASS,
                          "Create them on green's server first (pg_dumpall --roles-only).",
                          *roles ? "missing: %s" : "all there%s", roles);
            if (server_missing_extensions(c->blue.pg, pg, &extensions, &err))
                check_add(l, "green extensions", *extensions ? CHECK_FAIL : CHECK_PASS,
                          "Install their packages on green's machine.",
                          *extensions ? "missing: %s" : "all there%s", extensions);
            free(roles);
            free(extensions);
        }
        pg_close(pg);
        pg = NULL;
    }
    if (!ok)
        add_error(l, "green", CHECK_FAIL, &err);
    return ok;
}

static bool same_database(struct cutover *c, struct check_list *l)
{
    struct error err = {0};
    struct pg *pg = NULL;
    struct pg_identity id;
    bool same = false;

    if (!c->blue.pg || strcmp(c->blue.dbname, c->green.dbname) != 0)
        return false;
    if (pg_open(&pg, c->green.conninfo, c->green.dbname, PG_PLAIN, c->names.run, "preflight", NULL,
                &err) &&
        pg_identify(pg, &id, &err) && pg_same_database(&id, &c->blue.identity)) {
        check_add(l, "green", CHECK_FAIL, "Let [green] conninfo name another server or database.",
                  "blue and green are the same database");
        same = true;
    }
    pg_close(pg);
    return same;
}

void preflight_green(struct cutover *c, struct check_list *l)
{
    struct server_facts f;

    if (same_database(c, l) || !green_facts(c, &f, l))
        return;
    check_version(l, "green version", &f);
    check_add(l, "green role", f.in_recovery ? CHECK_FAIL : CHECK_PASS,
              "Name a primary in [green] conninfo.",
              f.in_recovery ? "is a standby" : "is a primary");
    check_wal(l, &f, "green replication", 1);
    check_add(l, "green rights", f.superuser ? CHECK_PASS : CHECK_FAIL,
              "Replay sets session_replication_role, which needs superuser on green.",
              "role %s: superuser %s", f.user, f.superuser ? "yes" : "no");
    if (c->blue.cat_loaded && f.version / 10000 < pg_version(c->blue.pg) / 10000)
        check_add(l, "green version", CHECK_FAIL, "Green must be blue's version or newer.",
                  "green is older than blue");
    check_green_database(c, l);
}

static void check_tool(struct check_list *l, const char *tool, int major)
{
    struct error err = {0};
    char *path = NULL;

    if (process_find_pg_tool(tool, major, &path, &err))
        check_add(l, "client tools", CHECK_PASS, NULL, "%s: %s", tool, path);
    else
        add_error(l, "client tools", CHECK_FAIL, &err);
    free(path);
}

static void check_space(struct cutover *c, struct check_list *l)
{
    const struct playbook_section *s = cutover_section(c, "clone");
    int64_t have = 0, need = 0;
    char a[HUMAN_SIZE], b[HUMAN_SIZE];
    struct error err = {0};

    if (!c->blue.cat_loaded || !playbook_bool(s, "check_space"))
        return;
    for (size_t i = 0; i < c->blue.cat.ntables; i++)
        need += c->blue.cat.tables[i].bytes;
    if (!file_free_space(c->dir.path ? c->dir.path : ".", &have, &err))
        add_error(l, "disk", CHECK_WARN, &err);
    else
        check_add(l, "disk", have > need * 3 / 2 ? CHECK_PASS : CHECK_FAIL,
                  "Put --dir on a larger disk: archive and spool lie there.",
                  "%s free for archive and spool, blue's tables are %s", human_bytes(a, have),
                  human_bytes(b, need));
}

static void check_migrations(struct cutover *c, struct check_list *l)
{
    const char *directory = playbook_str(cutover_section(c, "migrations"), "directory");
    struct migration_list list = {0};
    struct error err = {0};

    if (!directory)
        return;
    if (migrate_list(directory, &list, &err))
        check_add(l, "migrations", CHECK_PASS, NULL, "%zu files, all parsed", list.n);
    else
        add_error(l, "migrations", CHECK_FAIL, &err);
    migrate_list_release(&list);
}

void preflight_tools(struct cutover *c, struct check_list *l)
{
    int major = c->blue.pg ? pg_version(c->blue.pg) / 10000 : 12;

    check_tool(l, "pg_dump", major);
    check_tool(l, "pg_restore", major);
    check_space(c, l);
    check_migrations(c, l);
}

void preflight_traffic(struct cutover *c, struct check_list *l)
{
    struct error err = {0};

    if (c->rehearsal)
        return;
    if (playbook_count(c->pb, "traffic") == 0) {
        check_add(l, "traffic", CHECK_WARN,
                  "Clients must be moved by hand, or add a [traffic NAME] section.",
                  "no [traffic ...] section: nothing is held or flipped");
        return;
    }
    if (!cutover_open_traffic(c, &err)) {
        add_error(l, "traffic", CHECK_FAIL, &err);
        return;
    }
    for (size_t i = 0; i < c->ntraffic; i++) {
        enum traffic_side side = TRAFFIC_UNKNOWN;
        bool held = false;

        error_clear(&err);
        if (!traffic_check(c->traffic[i], &err) ||
            !traffic_probe(c->traffic[i], &side, &held, &err)) {
            char *name = xstrfmt("[traffic %s] %s", traffic_name(c->traffic[i]), err.message);

            snprintf(err.message, sizeof err.message, "%s", name);
            free(name);
            add_error(l, "traffic", CHECK_FAIL, &err);
            continue;
        }
        check_add(l, "traffic",
                  side == TRAFFIC_BLUE || side == TRAFFIC_MIXED ? CHECK_PASS : CHECK_FAIL,
                  "Point it at blue first.", "[traffic %s] reaches %s%s",
                  traffic_name(c->traffic[i]), traffic_side_name(side), held ? ", held" : "");
        if (!traffic_can_hold(c->traffic[i]))
            check_add(l, "traffic", CHECK_WARN, "Clients will see errors while blue is fenced.",
                      "[traffic %s] can't hold traffic", traffic_name(c->traffic[i]));
    }
}

bool preflight_run(struct cutover *c, struct check_list *out, struct error *err)
{
    (void) err;
    preflight_blue(c, out);
    preflight_green(c, out);
    preflight_tools(c, out);
    preflight_traffic(c, out);
    return true;
}
