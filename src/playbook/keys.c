/*
 * keys.c - every section and key of a playbook. The parser, the getters and the reference read this
 * table; what isn't in it isn't there.
 */
#include "playbook/playbook_internal.h"

#include "base/alloc.h"
#include "base/human.h"

#include <stdlib.h>
#include <string.h>

const char *const playbook_steps[] = {
    "preflight", "guard",  "capture", "dump",    "restore", "migrate", "prove",
    "replay",    "verify", "reverse", "deploy",  "hold",    "fence",   "drain",
    "confirm",   "flip",   "open",    "release", "watch",   "finish",  NULL,
};

const struct playbook_kind playbook_kinds[] = {
    {"cutover", PLAYBOOK_SINGLE, true,
     "The run: its name, its procedure, and how often the switch is tried."},
    {"blue", PLAYBOOK_SINGLE, true, "The database that serves now."},
    {"green", PLAYBOOK_SINGLE, true, "The clone that is to serve."},
    {"clone", PLAYBOOK_SINGLE, false, "How green is made from blue."},
    {"capture", PLAYBOOK_SINGLE, false,
     "How blue's changes are received while the clone is made, and what they may take."},
    {"migrations", PLAYBOOK_SINGLE, false,
     "The release's migrations, run on green alone: a directory of SQL files or a command. "
     "With neither there are none."},
    {"map", PLAYBOOK_NAMED, false,
     "How the rows of one table of blue become rows of green, where that can't be derived: "
     "[map public.orders], [map public.users -> public.profiles]. A * may stand in schema names."},
    {"replay", PLAYBOOK_SINGLE, false, "How much replay applies in one transaction."},
    {"verify", PLAYBOOK_SINGLE, false, "How the two sides are compared."},
    {"thresholds", PLAYBOOK_SINGLE, false,
     "What each part may take. In a rehearsal what goes past one is a no-go; in a run it is asked "
     "about at the next gate. write_pause alone undoes the switch."},
    {"app", PLAYBOOK_SINGLE, false, "What the application can do."},
    {"deploy", PLAYBOOK_NAMED, false,
     "The new version of the application: the shell commands that start it against green and move "
     "traffic to it."},
    {"fence", PLAYBOOK_SINGLE, false, "What stops writes on blue at the switch."},
    {"traffic", PLAYBOOK_NAMED, false,
     "What stands between clients and the database, and is pointed from blue to green. "
     "admin to new_front belong to pgbouncer, probe to release to command."},
    {"check", PLAYBOOK_NAMED, false,
     "A query or a command of yours that must succeed before the run goes on."},
    {"gate", PLAYBOOK_BEFORE, false,
     "Before this step the run waits for an answer. [gate before-hold] is the usual one."},
    {"hook", PLAYBOOK_BEFORE_AFTER, false, "A command run before or after a step."},
    {"rehearsal", PLAYBOOK_SINGLE, false, "Where a rehearsal makes its scratch clone."},
    {NULL, PLAYBOOK_SINGLE, false, NULL},
};

#define STR PLAYBOOK_STR
#define INT PLAYBOOK_INT
#define BOOL PLAYBOOK_BOOL
#define DURATION PLAYBOOK_DURATION
#define BYTES PLAYBOOK_BYTES
#define ENUM PLAYBOOK_ENUM
#define LIST PLAYBOOK_LIST
#define PATH PLAYBOOK_PATH
#define CONNINFO PLAYBOOK_CONNINFO
#define COMMAND PLAYBOOK_COMMAND
#define EXPRESSION PLAYBOOK_EXPRESSION
#define REQUIRED .flags = PLAYBOOK_REQUIRED
#define SECRET .flags = PLAYBOOK_SECRET
#define PREFIX .flags = PLAYBOOK_PREFIX

/* clang-format off */
const struct playbook_key playbook_keys[] = {
    {"cutover", "name", PLAYBOOK_NAME, REQUIRED,
     .help = "Names the run. Its slots, publications and directory are called after it."},
    {"cutover", "procedure", ENUM, .def = "online", .values = "online",
     .later = "read-only|migrate-last|upgrade",
     .help = "The order of the steps. online: clone, migrate and replay while blue serves, "
             "then a short pause."},
    {"cutover", "switch_attempts", INT, .def = "3", .min = "1", .max = "100",
     .help = "With --yes: how many times the switch is tried when a pause overran its budget."},
    {"cutover", "switch_retry", DURATION, .def = "5s", .max = "1d",
     .help = "How long to wait before the switch is tried again."},
    {"cutover", "lag_bound", BYTES, .def = "1MB",
     .help = "Replay counts as caught up when it is less than this behind blue."},
    {"cutover", "dir", PATH,
     .help = "Where the directories of runs are made. --dir and PGCUTOVER_DIR go before it."},
    {"cutover", "base_dir", PATH,
     .help = "The directory that relative paths, @file among them, start from; without it "
             "the playbook's own."},

    {"blue", "conninfo", CONNINFO, REQUIRED,
     .help = "How to connect to blue: keywords or a URI, as libpq takes them. Passwords "
             "are best left in a password file or a service."},

    {"green", "conninfo", CONNINFO, REQUIRED, .help = "How to connect to green."},
    {"green", "create", BOOL, .def = "yes",
     .help = "Make the database when it isn't there. With no it must exist and be empty."},

    {"clone", "method", ENUM, .def = "archive", .values = "archive", .later = "stream|physical",
     .help = "archive: pg_dump to a directory, then pg_restore, both in parallel."},
    {"clone", "jobs", INT, .def = "2", .min = "1", .max = "64",
     .help = "How many connections dump, and how many restore."},
    {"clone", "keep_archive", BOOL, .def = "no",
     .help = "Keep the archive as a backup of blue at the snapshot. It is then compressed, "
             "which takes longer."},
    {"clone", "check_space", BOOL, .def = "yes",
     .help = "Refuse to begin when the disk can't hold the archive and the spool."},

    {"capture", "no_primary_key", ENUM, .def = "full", .values = "full|fail",
     .help = "Tables without a usable key. full: their replica identity is FULL while the "
             "run is on; fail: refuse to begin."},
    {"capture", "spool_limit", BYTES, .def = "20GB", .min = "1MB",
     .help = "The most that spooled changes may take on this machine's disk."},
    {"capture", "slot_timeout", DURATION, .def = "60s", .min = "1ms", .max = "7d",
     .help = "How long the making of the slot may wait for transactions that are open on "
             "blue's cluster."},
    {"capture", "wal_budget", BYTES, .def = "10GB",
     .help = "Warn when the slot makes blue keep more WAL than this."},

    {"migrations", "directory", PATH,
     .help = "The directory of the SQL files. Flyway's, golang-migrate's and dbmate's "
             "names are known. Not together with command."},
    {"migrations", "command", COMMAND,
     .help = "A shell command that migrates green, whose connection it finds in the "
             "environment. Not together with directory."},
    {"migrations", "transaction", ENUM, .def = "each", .values = "each|all|none",
     .help = "What is one transaction: each file, all of them together, or none (each "
             "statement for itself)."},
    {"migrations", "sequence_gap", INT, .def = "1000000", .min = "0", .max = "1000000000000",
     .help = "How far each of green's sequences is pushed ahead before migrating, so that "
             "rows which migrations insert don't collide with replayed ones."},
    {"migrations", "accept_tables", LIST,
     .help = "New tables that the migrations fill from others and that need nothing of what blue "
             "writes later, as schema.name."},
    {"migrations", "history_table", STR, .def = "public.pgcutover_migrations",
     .help = "Where the migrations that were run are recorded on green."},
    {"migrations", "lock_timeout", DURATION, .def = "0", .max = "7d",
     .help = "lock_timeout of the migrations' session; 0 waits for ever."},

    {"map", "table", STR,
     .help = "The table on green, where it isn't the one in the section's name."},
    {"map", "skip", BOOL, .def = "no",
     .help = "Leave this table out of replay, proof and verification."},
    {"map", "key", LIST,
     .help = "The columns that name a row, where the primary key isn't to be used."},
    {"map", "up.", EXPRESSION, PREFIX, .tail = "COLUMN",
     .help = "A column of green as an expression over blue's row, evaluated on green."},
    {"map", "down.", EXPRESSION, PREFIX, .tail = "COLUMN",
     .help = "A column of blue as an expression over green's row, evaluated on blue: the "
             "way back."},
    {"map", "volatile", LIST,
     .help = "Columns of green that no rule can predict (random, now()). Only their "
             "presence is compared."},

    {"replay", "batch_changes", INT, .def = "5000", .min = "1", .max = "100000",
     .help = "The most changes applied in one transaction of ours."},
    {"replay", "batch_bytes", BYTES, .def = "8MB", .min = "64kB", .max = "256MB",
     .help = "The most bytes of changes applied in one transaction of ours."},

    {"verify", "jobs", INT, .def = "2", .min = "1", .max = "64",
     .help = "How many tables are compared at once."},
    {"verify", "block_rows", INT, .def = "2000", .min = "1", .max = "1000000",
     .help = "Rows whose hashes are compared as one; those of a block that differs are "
             "compared one by one."},
    {"verify", "examples", INT, .def = "3", .min = "0", .max = "1000",
     .help = "How many differing rows of a table are shown."},

    {"thresholds", "write_pause", DURATION, .def = "2s", .min = "50ms", .max = "1h",
     .help = "The longest that writes may wait at the switch. Past it the switch undoes itself."},
    {"thresholds", "clone", DURATION, .help = "Dump and restore together."},
    {"thresholds", "migrate", DURATION, .help = "The migrations."},
    {"thresholds", "replay", DURATION,
     .help = "From the end of the migrations until replay has caught up."},
    {"thresholds", "verify", DURATION, .help = "The comparison of all tables."},
    {"thresholds", "total", DURATION, .help = "From the start until the switch could begin."},
    {"thresholds", "lag", BYTES, .help = "How far replay may fall behind once it had caught up."},

    {"app", "compatible", ENUM, .def = "both", .values = "both|switch",
     .help = "Can the old version run on the new schema? both: clients move when they "
             "like; switch: deploy and release move them."},

    {"deploy", "start", COMMAND,
     .help = "Starts the new version against green; no traffic goes to it yet."},
    {"deploy", "health", COMMAND, .help = "Succeeds when the new version is ready to serve."},
    {"deploy", "move", COMMAND, .help = "Sends users to the new version."},
    {"deploy", "move_back", COMMAND, .help = "Sends users to the old version again."},
    {"deploy", "stop", COMMAND, .help = "Stops the new version."},
    {"deploy", "timeout", DURATION, .def = "60s", .min = "1ms", .max = "1d",
     .help = "How long each of these commands may take; health is asked again until then."},

    {"fence", "mode", ENUM, .def = "lock+trigger", .values = "lock+trigger",
     .help = "lock+trigger: every table is locked, and gets a trigger that refuses writes "
             "from the switch on."},
    {"fence", "lock_timeout", DURATION, .def = "500ms", .min = "1ms", .max = "1h",
     .help = "How long the fence waits for one table's lock before it lets go of all and "
             "tries again."},
    {"fence", "deadlock_timeout", DURATION, .def = "20ms", .min = "1ms", .max = "1h",
     .help = "deadlock_timeout of the fence's session, so that a deadlock with a client is "
             "found at once."},
    {"fence", "leftover_sessions", ENUM, .def = "terminate", .values = "terminate|leave",
     .help = "What becomes of sessions that still have a transaction open on blue when it "
             "is fenced."},
    {"fence", "guard", ENUM, .def = "refuse", .values = "refuse|watch",
     .help = "DDL on blue while the run is on. refuse: an event trigger refuses it; watch: "
             "it is let through and stops the run."},

    {"traffic", "driver", ENUM, REQUIRED, .values = "pgbouncer|command",
     .help = "pgbouncer: its admin console and its file of databases; command: shell "
             "commands of yours."},
    {"traffic", "admin", CONNINFO,
     .help = "The admin console (database pgbouncer) of the first PgBouncer."},
    {"traffic", "admin.", CONNINFO, PREFIX, .tail = "N",
     .help = "The admin console of the second, third... PgBouncer that reads the same file."},
    {"traffic", "database", STR, .help = "The name in [databases] that clients connect to."},
    {"traffic", "new_database", STR,
     .help = "The name in [databases] that the new version connects to, when it has one of "
             "its own."},
    {"traffic", "file", PATH, .help = "The file that holds the [databases] lines."},
    {"traffic", "blue", STR, SECRET,
     .help = "The right side of the [databases] line while blue serves: host=... port=... "
             "dbname=..."},
    {"traffic", "green", STR, SECRET, .help = "The same while green serves."},
    {"traffic", "pool_mode", ENUM, .def = "transaction", .values = "transaction|statement",
     .help = "The pool mode that the database must have, or a pause could not end between "
             "transactions."},
    {"traffic", "front", CONNINFO,
     .help = "How a client connects through PgBouncer: which side answers there is asked "
             "before and after the flip."},
    {"traffic", "new_front", CONNINFO, .help = "The same for new_database."},
    {"traffic", "probe", COMMAND, .help = "Prints blue or green: the side that clients reach now."},
    {"traffic", "prepare", COMMAND, .help = "Whatever can be done before the pause."},
    {"traffic", "hold", COMMAND, .help = "Makes clients wait."},
    {"traffic", "switch_blue", COMMAND, .help = "Points clients at blue."},
    {"traffic", "switch_green", COMMAND, .help = "Points clients at green."},
    {"traffic", "verify", COMMAND,
     .help = "Succeeds when the configuration is what the switch made it."},
    {"traffic", "release", COMMAND, .help = "Lets clients go on."},
    {"traffic", "timeout", DURATION, .def = "30s", .min = "1ms", .max = "1h",
     .help = "How long each command, or answer of an admin console, may take."},

    {"check", "when", LIST, REQUIRED, .values = "before-hold|before-open|after-open",
     .help = "The points at which it runs."},
    {"check", "sql", STR, .help = "A query; its first column of its first row is the answer."},
    {"check", "side", ENUM, .def = "green", .values = "blue|green",
     .help = "Where the query runs."},
    {"check", "expect", STR, .help = "The answer that the query must give."},
    {"check", "command", COMMAND, .help = "A shell command that must exit with status 0."},
    {"check", "timeout", DURATION, .def = "30s", .min = "1ms", .max = "1d",
     .help = "How long it may take."},

    {"gate", "window", PLAYBOOK_WINDOW,
     .help = "The time of day in which go is taken, by this machine's clock; 22:00-04:00 "
             "goes past midnight."},

    {"hook", "command", COMMAND, REQUIRED, .help = "The shell command."},
    {"hook", "on_failure", ENUM, .def = "stop", .values = "stop|warn",
     .help = "What a failure of it means."},
    {"hook", "timeout", DURATION, .def = "60s", .min = "1ms", .max = "1d",
     .help = "How long it may take."},

    {"rehearsal", "conninfo", CONNINFO,
     .help = "How to connect to the database for the scratch clone; without it one is made "
             "next to green."},
    {"rehearsal", "replay_for", DURATION, .def = "10s", .max = "1d",
     .help = "How long blue's live writes are replayed on the scratch clone before it is "
             "verified."},
    {"rehearsal", "keep", BOOL, .def = "no", .help = "Keep the scratch clone."},

    {.kind = NULL},
};
/* clang-format on */

const struct playbook_kind *playbook_find_kind(const char *name)
{
    for (const struct playbook_kind *k = playbook_kinds; k->name; k++) {
        if (strcmp(k->name, name) == 0)
            return k;
    }
    return NULL;
}

bool playbook_is_prefix(const struct playbook_key *key)
{
    return (key->flags & PLAYBOOK_PREFIX) != 0;
}

const struct playbook_key *playbook_find_key(const char *kind, const char *key)
{
    for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
        size_t len = strlen(k->key);
        if (strcmp(k->kind, kind) != 0)
            continue;
        if (playbook_is_prefix(k) ? strncmp(k->key, key, len) == 0 && key[len]
                                  : strcmp(k->key, key) == 0)
            return k;
    }
    return NULL;
}

const char *playbook_nearest_kind(const char *name)
{
    const char *names[sizeof playbook_kinds / sizeof playbook_kinds[0]];
    size_t n = 0;

    for (const struct playbook_kind *k = playbook_kinds; k->name; k++)
        names[n++] = k->name;
    names[n] = NULL;
    return human_nearest(name, names);
}

bool playbook_nearest_key(const char *kind, const char *key, struct strbuf *out)
{
    const char *names[sizeof playbook_keys / sizeof playbook_keys[0]];
    size_t n = 0;
    size_t head = strcspn(key, ".");

    for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
        if (strcmp(k->kind, kind) != 0)
            continue;
        if (!playbook_is_prefix(k)) {
            names[n++] = k->key;
            continue;
        }
        /* "upp.total" is meant to be "up.total" */
        char *word = xstrndup(key, head);
        char *known = xstrndup(k->key, strlen(k->key) - 1);
        const char *const one[] = {known, NULL};
        bool near = human_nearest(word, one) != NULL;
        free(word);
        free(known);
        if (near && (key[head] || strcmp(k->key, "admin.") != 0)) {
            strbuf_addf(out, "%s%s", k->key, key[head] && key[head + 1] ? key + head + 1 : k->tail);
            return true;
        }
    }
    names[n] = NULL;
    const char *near = human_nearest(key, names);
    if (near)
        strbuf_addstr(out, near);
    return near != NULL;
}

static bool is_step(const char *word)
{
    for (size_t i = 0; playbook_steps[i]; i++) {
        if (strcmp(playbook_steps[i], word) == 0)
            return true;
    }
    return false;
}

static bool point_ok(const struct playbook_kind *kind, const char *name, struct strbuf *why)
{
    bool may_follow = kind->naming == PLAYBOOK_BEFORE_AFTER;
    bool before = strncmp(name, "before-", 7) == 0;
    bool after = strncmp(name, "after-", 6) == 0;
    const char *word = before ? name + 7 : after ? name + 6 : name;

    if ((before || (after && may_follow)) && is_step(word))
        return true;
    strbuf_addf(why, "must be called before-STEP%s", may_follow ? " or after-STEP" : "");
    const char *near = human_nearest(word, playbook_steps);
    if (near) {
        strbuf_addf(why, "; did you mean \"%s-%s\"?", after && may_follow ? "after" : "before",
                    near);
        return false;
    }
    for (size_t i = 0; playbook_steps[i]; i++)
        strbuf_addf(why, "%s%s", i > 0 ? ", " : "; the steps are ", playbook_steps[i]);
    return false;
}

bool playbook_name_ok(const struct playbook_kind *kind, const char *name, struct strbuf *why)
{
    if (kind->naming == PLAYBOOK_SINGLE) {
        if (*name)
            strbuf_addf(why, "takes no name; write [%s]", kind->name);
        return *name == '\0';
    }
    if (!*name) {
        strbuf_addf(why, "needs a name, such as [%s %s]", kind->name,
                    kind->naming == PLAYBOOK_NAMED ? "NAME" : "before-hold");
        return false;
    }
    return kind->naming == PLAYBOOK_NAMED || point_ok(kind, name, why);
}
