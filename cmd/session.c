/* session.c - working on a run: its directory and playbook, signals, screen, control socket,
 * keeper. */
#include "cmd.h"

#include "base/alloc.h"
#include "base/event.h"
#include "steps/keeper.h"
#include "steps/pause.h"
#include "sys/file.h"
#include "sys/stop.h"
#include "ui/screen.h"

#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct screen *screen;

bool load_playbook(const struct options *o, const char *path, struct playbook **out,
                   struct error *err)
{
    struct playbook_source src = {
        .path = path, .overlay = o->overlay, .sets = o->nsets > 1 ? o->sets : NULL};

    return playbook_load(out, &src, err);
}

bool open_run(const struct options *o, const char *arg, bool work, struct cutover *c,
              struct error *err)
{
    char *base = rundir_base(o->dir);
    struct rundir dir = {.lock_fd = -1};
    struct playbook *pb = NULL;
    char *ini = NULL;
    bool ok = rundir_find(&dir, base, arg, err) && (!work || rundir_lock(&dir, err));

    if (ok) {
        struct playbook_source src = {0};

        ini = rundir_file(&dir, "playbook.ini");
        src.path = o->playbook ? o->playbook : ini;
        ok = playbook_load(&pb, &src, err);
    }
    ok = ok && cutover_open(c, pb, &dir, work, err);
    rundir_release(&dir);
    free(ini);
    free(base);
    return ok;
}

static void answer_control(void *ctx, const char *line, struct strbuf *answer)
{
    static const struct {
        const char *verb;
        enum inbox in;
    } verbs[] = {
        {"go", INBOX_GO}, {"wait", INBOX_WAIT}, {"stop", INBOX_STOP}, {"abort", INBOX_ABORT}};
    struct cutover *c = ctx;

    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(line, verbs[i].verb) != 0)
            continue;
        if (atomic_load(&c->gate_open)) {
            atomic_store(&c->inbox, (int) verbs[i].in);
            strbuf_addf(answer, "ok: the gate was told %s\n", line);
        } else if (verbs[i].in == INBOX_STOP || verbs[i].in == INBOX_ABORT) {
            atomic_store(&c->abort_wanted, verbs[i].in == INBOX_ABORT);
            stop_request("asked to by `pgcutover control`");
            strbuf_addf(answer, "ok: %s at the next safe point\n", line);
        } else {
            strbuf_addstr(answer, "error: the run is at no gate\n");
        }
        return;
    }
    strbuf_addf(answer, "error: unknown verb \"%s\"; known are go, wait, stop, abort\n", line);
}

static enum inbox ask_screen(void *ui, const char *gate, const char *evidence, bool first)
{
    (void) evidence; /* shown already, as an event */
    switch (screen_ask(ui, gate, first)) {
    case SCREEN_GO:
        return INBOX_GO;
    case SCREEN_WAIT:
        return INBOX_WAIT;
    case SCREEN_STOP:
        return INBOX_STOP;
    case SCREEN_ABORT:
        return INBOX_ABORT;
    default:
        return INBOX_EMPTY;
    }
}

static bool journal_who(struct cutover *c, const char *what, struct error *err)
{
    struct passwd *pw = getpwuid(getuid());
    char host[256] = "";

    gethostname(host, sizeof host - 1);
    return journal_add(
        c->journal, "process",
        json_pack("{s:s, s:s, s:s, s:i, s:s}", "what", what, "user", pw ? pw->pw_name : "?", "host",
                  host, "pid", (int) getpid(), "version", PGCUTOVER_VERSION),
        err);
}

/* Nobody stops inside the pause: clients wait there. */
static bool known_step(const struct cutover *c, const char *option, const char *name,
                       struct error *err)
{
    int at = name ? engine_find(&c->engine, name) : 0;

    if (!name)
        return true;
    if (at < 0)
        return error_set(err, ERR_USAGE, "%s: there is no step \"%s\"", option, name);
    if (c->engine.steps[at].flags & STEP_PAUSE)
        return error_set(err, ERR_USAGE, "%s %s: the run can't stop inside the pause", option,
                         name);
    return true;
}

bool session_begin(const struct options *o, struct cutover *c, const struct step *steps,
                   const struct engine_ops *ops, struct error *err)
{
    char *logs = cutover_file(c, "logs");
    bool ok;

    stop_catch_signals();
    screen = screen_new(o->quiet, c->dir.name);
    c->assume_yes = o->yes;
    c->lose_writes = o->lose_writes;
    c->keep_clone = c->keep_clone || o->keep_clone;
    c->pause_after = o->pause_after;
    if (screen_can_ask(screen) && !o->yes)
        c->ask = ask_screen;
    c->ui = screen;
    engine_init(&c->engine, steps, ops, c, c->journal);
    c->engine.until = o->until;
    ok = file_make_dir(logs, err) && journal_who(c, steps[0].name, err) &&
         control_start(&c->control, c->dir.path, answer_control, c, err) &&
         keeper_start(&c->keeper, c, err);
    ok = ok && known_step(c, "--until", o->until, err) &&
         known_step(c, "--pause-after", o->pause_after, err);
    free(logs);
    return ok;
}

void session_end(struct cutover *c)
{
    keeper_stop(c->keeper);
    c->keeper = NULL;
    control_stop(c->control);
    c->control = NULL;
    screen_free(screen);
    screen = NULL;
}

/* A thread's failure reaches us as a stop request: its own error is the reason that counts. */
static void prefer_thread_error(struct cutover *c, struct error *err)
{
    struct error own = {0};

    if (err->code != ERR_STOPPED)
        return;
    stop_clear();
    if (!live_check(c, &own) && own.code != ERR_STOPPED)
        *err = own;
}

bool session_run(struct cutover *c, bool *aborted, struct error *err)
{
    bool ok = engine_run(&c->engine, aborted, err);

    if (!ok)
        prefer_thread_error(c, err);
    /* A rollback that is asked to abort stops: green serves on, the run has not ended. */
    if (!ok && err->code == ERR_STOPPED && atomic_load(&c->abort_wanted) &&
        c->engine.steps != rollback_steps) {
        error_clear(err);
        stop_clear();
        ok = *aborted = cutover_abort(c, err);
        return ok;
    }
    if (ok && *aborted)
        ok = rundir_end(c->journal, "aborted", err);
    return ok;
}
