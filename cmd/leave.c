/* leave.c - control, verify, abort, rollback, finish: what ends a run or looks at it from outside.
 */
#include "cmd.h"

#include "base/clock.h"
#include "steps/pause.h"
#include "sys/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ABORT_WAIT_MS 600000

static int send_verb(const struct options *o, const char *run, const char *verb)
{
    char *base = rundir_base(o->dir);
    struct rundir dir = {.lock_fd = -1};
    struct strbuf answer = {0};
    struct error err = {0};
    int status = 0;

    if (!rundir_find(&dir, base, run, &err) || !control_send(dir.path, verb, &answer, &err)) {
        status = report_error(o, &err);
    } else {
        printf("%s", strbuf_cstr(&answer));
        status = strncmp(strbuf_cstr(&answer), "ok", 2) == 0 ? 0 : 1;
    }
    strbuf_release(&answer);
    rundir_release(&dir);
    free(base);
    return status;
}

int cmd_control(const struct options *o)
{
    return o->nargs == 2 ? send_verb(o, o->args[0], o->args[1]) : send_verb(o, NULL, o->args[0]);
}

int cmd_verify(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    int status = 0;
    bool ok = open_run(o, o->nargs ? o->args[0] : NULL, true, &c, &err);

    if (ok && (c.decided || rundir_ended(c.journal))) {
        ok = error_set(&err, ERR_USAGE,
                       "run %s has been switched or has ended: there is nothing to compare with",
                       c.dir.name);
    }
    ok = ok && session_begin(o, &c, online_steps, &online_ops, &err);
    if (ok && engine_in_pause(&c.engine)) {
        error_set(&err, ERR_USAGE, "run %s was cut off in the pause", c.dir.name);
        ok = error_hint(&err, "`pgcutover resume %s` takes it back or ends it first.", c.dir.name);
    }
    if (ok && engine_state(&c.engine, "replay") != STEP_DONE)
        ok = error_set(&err, ERR_USAGE, "run %s does not replay yet", c.dir.name);
    if (ok && engine_state(&c.engine, "verify") != STEP_DONE)
        ok = engine_attach(&c.engine, &err) && compare_at_one_lsn(&c, COMPARE_VERIFY, &err);
    else
        ok = ok && engine_attach(&c.engine, &err); /* taking up verify compares everything */
    session_end(&c);
    if (!ok)
        status = report_error(o, &err);
    else if (!o->json)
        printf("every table agrees\n");
    else
        printf("{\"differing\": 0}\n");
    if (c.journal)
        report_lines(o, &c);
    cutover_close(&c);
    return status;
}

static int confirm(const struct options *o, const char *what, const char *run)
{
    char line[128];

    if (o->yes || !isatty(STDIN_FILENO))
        return 1;
    fprintf(stderr, "%s: type the run's name, %s: ", what, run);
    if (!fgets(line, sizeof line, stdin))
        return 0;
    line[strcspn(line, "\n")] = '\0';
    return strcmp(line, run) == 0;
}

/* The process that works on the run undoes it itself; wait until it has. */
static bool abort_live(const char *dir, struct error *err)
{
    struct strbuf answer = {0};
    int64_t deadline = clock_in_ms(ABORT_WAIT_MS);
    bool ok = control_send(dir, "abort", &answer, err);

    strbuf_release(&answer);
    while (ok && !clock_passed(deadline)) {
        struct rundir d = {.lock_fd = -1};
        struct error locked = {0};
        bool free_now = rundir_find(&d, ".", dir, &locked) && rundir_lock(&d, &locked);

        rundir_release(&d);
        if (free_now)
            return true;
        clock_sleep_ms(100);
    }
    return ok && error_set(err, ERR_TIMEOUT, "the process that works on %s has not ended", dir);
}

static int end_report(const struct options *o, struct cutover *c, bool ok, const char *result,
                      const struct error *err)
{
    int status = 0;

    if (!ok)
        status = report_error(o, err);
    else if (o->json)
        printf("{\"run\": \"%s\", \"result\": \"%s\"}\n", c->dir.name, result);
    else
        printf("%s\n", result);
    if (c->journal)
        report_lines(o, c);
    cutover_close(c);
    return status;
}

static bool open_or_abort_live(const struct options *o, struct cutover *c, struct error *err)
{
    char *base = rundir_base(o->dir);
    struct rundir dir = {.lock_fd = -1};
    bool ok = rundir_find(&dir, base, o->nargs ? o->args[0] : NULL, err);

    if (ok && !confirm(o, "abort", dir.name))
        ok = error_set(err, ERR_STOPPED, "not aborted: the name was not typed");
    if (ok && !rundir_lock(&dir, err)) {
        error_clear(err);
        ok = abort_live(dir.path, err);
    }
    if (ok) {
        char *path = strdup(dir.path);

        rundir_release(&dir);
        ok = open_run(o, path, true, c, err);
        free(path);
    }
    rundir_release(&dir);
    free(base);
    return ok;
}

int cmd_abort(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    bool ok = open_or_abort_live(o, &c, &err);
    const char *ended = ok ? rundir_ended(c.journal) : NULL;

    if (ok && ended && strcmp(ended, "aborted") != 0)
        ok = error_set(&err, ERR_USAGE, "run %s has ended: %s", c.dir.name, ended);
    if (ok && !ended) {
        ok = confirm(o, "abort", c.dir.name) ||
             error_set(&err, ERR_STOPPED, "not aborted: the name was not typed");
        ok =
            ok &&
            session_begin(o, &c, c.rehearsal ? rehearsal_steps : online_steps, &online_ops, &err) &&
            cutover_abort(&c, &err);
        session_end(&c);
    }
    return end_report(o, &c, ok, "aborted: blue is as it was", &err);
}

/* Refused or undone, and known to be: green serves on, and the run can be finished as before. */
static void forget_rollback(struct cutover *c)
{
    struct error ignored = {0};
    bool decided = true;

    if (journal_get_fact(c->journal, "rollback_decided") || engine_in_pause(&c->engine) ||
        !pause_decided(c, &decided, &ignored) || decided)
        return;
    if (!journal_fact(c->journal, "rolling_back", NULL, &ignored))
        fprintf(stderr, "pgcutover: %s\n", ignored.message);
}

static bool roll_back(const struct options *o, struct cutover *c, struct error *err)
{
    bool aborted = false;

    if (!journal_fact(c->journal, "rolling_back", "yes", err))
        return false;
    pause_direction(c, true);
    if (!session_begin(o, c, rollback_steps, &rollback_ops, err))
        return false;
    c->assume_yes = true; /* one command: no gate, but the tries of a pause are counted */
    if (session_run(c, &aborted, err) && !aborted)
        return rundir_end(c->journal, "rolled-back", err);
    stop_clear();
    forget_rollback(c);
    return false;
}

/* Has the switch been decided? Then it is a rollback, else an abort. */
static bool back_to_blue(const struct options *o, struct cutover *c, const char **result,
                         struct error *err)
{
    bool decided = false;

    if (journal_get_fact(c->journal, "finishing"))
        return error_set(err, ERR_USAGE, "run %s is being finished: what a rollback needs is gone",
                         c->dir.name);
    if (!c->rehearsal && !pause_decided(c, &decided, err))
        return false;
    if (decided)
        return roll_back(o, c, err);
    *result = "aborted: blue is as it was (it had not been switched)";
    return session_begin(o, c, c->rehearsal ? rehearsal_steps : online_steps, &online_ops, err) &&
           cutover_abort(c, err);
}

int cmd_rollback(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    const char *result = "rolled back: blue serves";
    bool ok = open_run(o, o->nargs ? o->args[0] : NULL, true, &c, &err);

    if (ok && rundir_ended(c.journal))
        ok =
            error_set(&err, ERR_USAGE, "run %s has ended: %s", c.dir.name, rundir_ended(c.journal));
    if (ok && !confirm(o, "rollback", c.dir.name))
        ok = error_set(&err, ERR_STOPPED, "not rolled back: the name was not typed");
    ok = ok && back_to_blue(o, &c, &result, &err);
    session_end(&c);
    return end_report(o, &c, ok, result, &err);
}

static bool may_finish(const struct cutover *c, struct error *err)
{
    const char *ended = rundir_ended(c->journal), *run = c->dir.name;

    if (ended)
        return strcmp(ended, "finished") == 0 ||
               error_set(err, ERR_USAGE, "run %s has ended: %s", run, ended);
    if (!c->decided) {
        error_set(err, ERR_USAGE, "run %s has not been switched", run);
        return error_hint(err, "`pgcutover abort %s` ends it and leaves blue as it was.", run);
    }
    if (journal_get_fact(c->journal, "rolling_back")) {
        error_set(err, ERR_USAGE, "run %s is being rolled back", run);
        return error_hint(err, "`pgcutover rollback %s` goes on with that.", run);
    }
    if (!journal_get_fact(c->journal, "released")) {
        error_set(err, ERR_USAGE, "run %s is decided but its traffic was not released yet", run);
        return error_hint(err, "`pgcutover resume %s` does so.", run);
    }
    return true;
}

int cmd_finish(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    bool ok = open_run(o, o->nargs ? o->args[0] : NULL, true, &c, &err) && may_finish(&c, &err) &&
              (confirm(o, "finish", c.dir.name) ||
               error_set(&err, ERR_STOPPED, "not finished: the name was not typed")) &&
              session_begin(o, &c, online_steps, &online_ops, &err) &&
              cutover_finish(&c, o->unfence_blue, &err);

    session_end(&c);
    return end_report(o, &c, ok,
                      o->unfence_blue ? "finished: nothing of the run is left on either side"
                                      : "finished: blue keeps its fence",
                      &err);
}
