/* clone.c - dump from the capture's snapshot, restore into green, and the picture of green before
 * its migrations. */
#include "clone/archive.h"

#include "base/alloc.h"
#include "base/event.h"
#include "base/fault.h"
#include "pg/facts.h"
#include "pg/server.h"
#include "steps/steps.h"
#include "sys/file.h"

#include <stdlib.h>
#include <string.h>

static int64_t table_bytes(const struct catalog *cat)
{
    int64_t sum = 0;

    for (size_t i = 0; i < cat->ntables; i++)
        sum += cat->tables[i].bytes;
    return sum;
}

static bool keeps_archive(const struct cutover *c)
{
    return !c->rehearsal && playbook_bool(cutover_section(c, "clone"), "keep_archive");
}

bool step_dump(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    char *dir = cutover_file(c, "archive");
    char *log = cutover_file(c, "logs/dump.log");
    struct error redo = {0};
    bool ok = true;

    if (!c->exporter) {
        event_warn(
            "the snapshot of the capture is gone with the process that held it: capturing anew");
        ok = step_capture_undo(c, &redo) && step_capture(c, &redo);
        if (!ok)
            *err = redo;
    }
    ok = ok && file_remove_tree(dir, err);
    if (ok) {
        struct archive_options o = {.conninfo = c->blue.conninfo,
                                    .dbname = c->blue.dbname,
                                    .run = c->names.run,
                                    .snapshot = c->snapshot,
                                    .encoding = c->blue.cat.encoding,
                                    .dir = dir,
                                    .log_path = log,
                                    .jobs = (int) playbook_int(cutover_section(c, "clone"), "jobs"),
                                    .compress = keeps_archive(c),
                                    .server_version = pg_version(c->blue.pg),
                                    .total_bytes = table_bytes(&c->blue.cat)};
        ok = archive_dump(&o, err);
    }
    if (ok) { /* TRAPS 18: held longer, the snapshot would keep blue from vacuuming */
        pg_close(c->exporter);
        c->exporter = NULL;
    }
    free(dir);
    free(log);
    return ok && live_check(c, err);
}

bool step_dump_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    char *dir = cutover_file(c, "archive");
    char *part = cutover_file(c, "archive.part");
    bool ok = keeps_archive(c) || file_remove_tree(dir, err);

    ok = file_remove_tree(part, err) && ok;
    free(dir);
    free(part);
    return ok;
}

static bool creates_green(const struct cutover *c)
{
    return c->rehearsal || playbook_bool(cutover_section(c, "green"), "create");
}

static bool empty_green(struct cutover *c, struct error *err);

/* [green] create = no: what is there and not ours stays, and ends the run. */
static bool nothing_in_green(struct cutover *c, struct error *err)
{
    struct server_facts f;

    if (!server_facts_read(c->green.pg, &f, err))
        return false;
    if (f.user_objects == 0)
        return true;
    error_set(err, ERR_NOGO, "green (%s) is not empty: %d objects", c->green.dbname,
              f.user_objects);
    return error_hint(err, "The clone is made there: name an empty database.");
}

/* A green of ours from an earlier try goes; anybody else's stays and ends the run. */
static bool make_green(struct cutover *c, struct error *err)
{
    bool exists = false, ours = false;

    side_disconnect(&c->green);
    if (!creates_green(c))
        return empty_green(c, err) && side_lock(c, &c->green, err) && nothing_in_green(c, err);
    if (!server_database_exists(c->green.conninfo, c->green.dbname, &exists, &ours, c->names.run,
                                err))
        return false;
    if (exists && !ours) {
        error_set(err, ERR_NOGO,
                  "database %s exists on green's server and is not a clone of this run",
                  c->green.dbname);
        return error_hint(err, "Name another database in [green] conninfo, or drop it yourself.");
    }
    if (exists && !server_drop_database(c->green.conninfo, c->green.dbname, c->names.run, err))
        return false;
    return server_create_database(c->green.conninfo, c->green.dbname, c->blue.pg, c->names.run,
                                  err) &&
           FAULT("restore.created", err) && side_connect(c, &c->green, err) &&
           side_lock(c, &c->green, err);
}

static bool restore_archive(struct cutover *c, struct error *err)
{
    char *dir = cutover_file(c, "archive");
    char *log = cutover_file(c, "logs/restore.log");
    struct archive_options o = {.conninfo = c->green.conninfo,
                                .dbname = c->green.dbname,
                                .run = c->names.run,
                                .dir = dir,
                                .log_path = log,
                                .jobs = (int) playbook_int(cutover_section(c, "clone"), "jobs"),
                                .server_version = pg_version(c->green.pg),
                                .total_bytes = table_bytes(&c->blue.cat),
                                .watch = c->green.pg};
    bool ok = archive_restore(&o, err);

    free(dir);
    free(log);
    return ok;
}

/* The restore ends with the picture: it is there, so the archive was restored whole. */
static bool restored(struct cutover *c, bool *yes, struct error *err)
{
    char *value = NULL;
    bool exists = false, ours = false;

    *yes = false;
    if (!server_database_exists(c->green.conninfo, c->green.dbname, &exists, &ours, c->names.run,
                                err))
        return false;
    if (!exists || (creates_green(c) && !ours))
        return true;
    if (!side_connect(c, &c->green, err) ||
        !fact_get(c->green.pg, c->names.run, "restored", &value, err))
        return false;
    *yes = value != NULL;
    free(value);
    return true;
}

bool step_restore(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    bool yes = false;

    if (!restored(c, &yes, err))
        return false;
    if (yes)
        return side_lock(c, &c->green, err) && step_dump_undo(c, err);
    return make_green(c, err) && facts_install(c->green.pg, c->names.run, err) &&
           journal_fact(c->journal, "green_database", c->green.dbname, err) &&
           restore_archive(c, err) &&
           identity_copy_saved(c->blue.pg, c->green.pg, c->names.run, err) &&
           side_load(c, &c->green, err) && catalog_save_before(c->green.pg, &c->green.cat, err) &&
           FAULT("restore.before-mark", err) &&
           fact_set(c->green.pg, c->names.run, "restored", "yes", err) && step_dump_undo(c, err) &&
           live_check(c, err);
}

/* A server that is gone has nothing to undo, if whoever aborts says that the clone may stay. */
bool green_is_there(struct cutover *c, bool *exists, bool *ours, struct error *err)
{
    *exists = *ours = false;
    if (server_database_exists(c->green.conninfo, c->green.dbname, exists, ours, c->names.run, err))
        return true;
    if (!c->keep_clone || err->code != ERR_CONNECT)
        return error_hint(err, "With --keep-clone the abort passes over green.");
    event_warn("green can't be reached and is left as it is: %s", err->message);
    error_clear(err);
    return true;
}

static bool empty_green(struct cutover *c, struct error *err)
{
    bool ours = false;

    return side_connect(c, &c->green, err) && facts_installed(c->green.pg, &ours, err) &&
           (!ours || server_empty_database(c->green.pg, c->names.run, err));
}

bool step_restore_undo(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    bool exists = false, ours = false;

    if (c->keep_clone) {
        event_info("the clone %s is kept", c->green.dbname);
        return true;
    }
    if (!green_is_there(c, &exists, &ours, err))
        return false;
    if (!exists)
        return true;
    if (!creates_green(c))
        return empty_green(c, err);
    if (!ours)
        return true;
    /* A replication origin belongs to the cluster: it would outlive the database. */
    if (!side_connect(c, &c->green, err) || !apply_drop_origin(c->green.pg, c->names.run, err))
        return false;
    side_disconnect(&c->green);
    return server_drop_database(c->green.conninfo, c->green.dbname, c->names.run, err);
}

bool step_restore_attach(void *ctx, struct error *err)
{
    struct cutover *c = ctx;

    return side_connect(c, &c->green, err) && side_lock(c, &c->green, err);
}

void describe_clone(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    strbuf_addf(out, "run: pg_dump -Fd -j %lld --snapshot=... (%s)\n",
                (long long) playbook_int(cutover_section(c, "clone"), "jobs"),
                keeps_archive(c) ? "compressed, kept" : "uncompressed, deleted after the restore");
}

void describe_restore(void *ctx, struct strbuf *out)
{
    struct cutover *c = ctx;

    if (creates_green(c))
        strbuf_addf(out, "on green's server: CREATE DATABASE %s\n", c->green.dbname);
    strbuf_addf(out, "run: pg_restore -j %lld; then ANALYZE of every table\n",
                (long long) playbook_int(cutover_section(c, "clone"), "jobs"));
}
