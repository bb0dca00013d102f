/* run.c - run and resume: the guided cutover. */
#include "cmd.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool keep_playbook(const struct playbook *pb, const struct rundir *dir, struct error *err)
{
    struct strbuf text = {0};
    char *path = rundir_file(dir, "playbook.ini");
    bool ok;

    playbook_write(pb, &text);
    ok = file_replace(path, text.data, text.len, 0600, err);
    strbuf_release(&text);
    free(path);
    return ok;
}

/* A new run: its directory with the playbook as run, its journal. */
static bool create_run(const struct options *o, struct cutover *c, struct error *err)
{
    struct rundir dir = {.lock_fd = -1};
    struct playbook *pb = NULL;
    char *base = NULL;
    bool ok = load_playbook(o, o->args[0], &pb, err);

    if (ok) {
        const struct playbook_section *s = playbook_section(pb, "cutover");

        base = rundir_base(o->dir ? o->dir : playbook_str(s, "dir"));
        ok =
            rundir_create(&dir, base, playbook_str(s, "name"), err) && keep_playbook(pb, &dir, err);
        if (ok)
            ok = cutover_open(c, pb, &dir, true, err);
        else
            playbook_free(pb);
    }
    ok = ok && journal_add(c->journal, "created",
                           json_pack("{s:s}", "playbook", playbook_path(c->pb)), err);
    rundir_release(&dir);
    free(base);
    return ok;
}

static void report_result(const struct options *o, const struct cutover *c, bool aborted)
{
    json_t *r;
    char *text;

    if (!o->json) {
        if (aborted)
            printf("aborted: everything was undone\n");
        else
            printf("switched\n");
        printf("run directory: %s\n", c->dir.path);
        return;
    }
    r = json_pack("{s:s, s:s, s:s}", "run", c->dir.name, "directory", c->dir.path, "result",
                  aborted ? "aborted" : "switched");
    text = json_dumps(r, JSON_INDENT(1));
    printf("%s\n", text);
    free(text);
    json_decref(r);
}

static int work(const struct options *o, struct cutover *c, struct error *err)
{
    bool aborted = false;
    bool ok = session_begin(o, c, online_steps, &online_ops, err) && session_run(c, &aborted, err);
    int status = 0;

    session_end(c);
    if (!ok)
        status = report_error(o, err);
    else
        report_result(o, c, aborted);
    report_lines(o, c);
    return ok && aborted ? 3 : status;
}

int cmd_run(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    int status = create_run(o, &c, &err) ? work(o, &c, &err) : report_error(o, &err);

    cutover_close(&c);
    return status;
}

/* An edited playbook: the map is derived and judged again; proved again while replay has not
 * touched green. */
static bool take_new_playbook(const struct options *o, struct cutover *c, struct error *err)
{
    struct engine e;
    bool ok;

    if (!o->playbook)
        return true;
    if (!keep_playbook(c->pb, &c->dir, err))
        return false;
    ok = true;
    engine_init(&e, online_steps, &online_ops, c, c->journal);
    if (engine_state(&e, "replay") == STEP_TODO || engine_state(&e, "replay") == STEP_UNDONE)
        ok = engine_reset(&e, "migrate", err);
    engine_release(&e);
    return ok;
}

/* What a run that is not to be resumed is told. */
static bool may_resume(const struct options *o, const struct cutover *c, struct error *err)
{
    const char *run = c->dir.name;

    if (rundir_ended(c->journal)) {
        error_set(err, ERR_USAGE, "run %s has ended: %s", run, rundir_ended(c->journal));
        return error_hint(err, "`pgcutover run PLAYBOOK` begins a new one.");
    }
    if (c->rehearsal) {
        error_set(err, ERR_USAGE, "run %s is a rehearsal that was cut off", run);
        return error_hint(err, "`pgcutover abort %s` drops what it made.", run);
    }
    if (journal_get_fact(c->journal, "aborting")) {
        error_set(err, ERR_USAGE, "run %s is being aborted, and half of it may be gone", run);
        return error_hint(err, "`pgcutover abort %s` goes on with that.", run);
    }
    if (journal_get_fact(c->journal, "rolling_back")) {
        error_set(err, ERR_USAGE, "run %s is being rolled back", run);
        return error_hint(err, "`pgcutover rollback %s` goes on with that.", run);
    }
    if (journal_get_fact(c->journal, "finishing")) {
        error_set(err, ERR_USAGE, "run %s is being finished", run);
        return error_hint(err, "`pgcutover finish %s` goes on with that.", run);
    }
    if (o->playbook && c->decided)
        return error_set(err, ERR_USAGE,
                         "run %s has been switched: its playbook can't be changed any more", run);
    return true;
}

int cmd_resume(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    int status;

    if (!open_run(o, o->nargs ? o->args[0] : NULL, true, &c, &err) || !may_resume(o, &c, &err) ||
        !take_new_playbook(o, &c, &err))
        status = report_error(o, &err);
    else
        status = work(o, &c, &err);
    cutover_close(&c);
    return status;
}
