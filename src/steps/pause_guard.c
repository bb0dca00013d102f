#include "steps/pause_guard.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "pg/facts.h"
#include "pg/position.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ACT_DEADLINE_MS 30000
#define NEVER_ARMED_MS 60000
#define OLD_GUARD_MS 40000

extern char **environ;

struct pguard {
    pid_t pid;
    int to, from; /* pipes */
};

/* ---- our end ---- */

static bool spawn_guard(struct pguard *g, const char *dir, const char *from, struct error *err)
{
    int down[2] = {-1, -1}, up[2] = {-1, -1};
    char in_text[16] = "3", out_text[16] = "4";
    char *argv[] = {(char *) "pgcutover",
                    (char *) "guard-process",
                    (char *) dir,
                    (char *) from,
                    in_text,
                    out_text,
                    NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    int rc;

    if (pipe2(down, O_CLOEXEC) != 0)
        return error_set_errno(err, errno, "could not make a pipe");
    if (pipe2(up, O_CLOEXEC) != 0) {
        rc = errno;
        close(down[0]);
        close(down[1]);
        return error_set_errno(err, rc, "could not make a pipe");
    }
    /* Move the child's ends out of the way of 3 and 4, which dup2 is to fill. */
    int in = fcntl(down[0], F_DUPFD_CLOEXEC, 10), out = fcntl(up[1], F_DUPFD_CLOEXEC, 10);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, 3);
    posix_spawn_file_actions_adddup2(&actions, out, 4);
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attr, &none);
    /* A session of its own: what stops or kills the run's group leaves the guard alone. */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    rc = posix_spawn(&g->pid, "/proc/self/exe", &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    close(in);
    close(out);
    close(down[0]);
    close(up[1]);
    g->to = down[1];
    g->from = up[0];
    if (rc != 0) {
        g->pid = 0;
        return error_set_errno(err, rc, "could not start the guard process");
    }
    return true;
}

/* A guard of an earlier pause, of a process that died, may still be giving traffic back: it must
 * not meet ours. */
static bool wait_for_old_guard(struct cutover *c, struct error *err)
{
    char *path = cutover_file(c, "guard.lock");
    int64_t deadline = clock_in_ms(OLD_GUARD_MS);
    int fd = -1;
    bool ok;

    while (!(ok = file_lock(path, &fd, err)) && err->code == ERR_LOCKED &&
           !clock_passed(deadline)) {
        error_clear(err);
        clock_sleep_ms(50);
    }
    if (ok)
        close(fd);
    else if (err->code == ERR_LOCKED)
        error_set(err, ERR_LOCKED,
                  "a guard process of an earlier pause is still at work (see %s/logs/guard.log)",
                  c->dir.path);
    free(path);
    return ok;
}

bool pguard_start(struct pguard **out, struct cutover *c, int64_t ready_deadline_us,
                  struct error *err)
{
    struct pguard *g = xcalloc(1, sizeof *g);
    struct pollfd p = {.events = POLLIN};
    char said = 0;

    g->to = g->from = -1;
    if (!wait_for_old_guard(c, err)) {
        free(g);
        return false;
    }
    if (!spawn_guard(g, c->dir.path, c->pause.from->name, err)) {
        pguard_close(g);
        return false;
    }
    p.fd = g->from;
    while (poll(&p, 1, clock_poll_ms(ready_deadline_us)) < 0 && errno == EINTR)
        continue;
    if (!(p.revents & POLLIN) || read(g->from, &said, 1) != 1 || said != 'R') {
        pguard_close(g);
        error_set(err, ERR_CHILD, "the guard process did not get ready");
        return error_hint(err, "%s/logs/guard.log says why.", c->dir.path);
    }
    *out = g;
    return true;
}

bool pguard_arm(struct pguard *g, int64_t limit_us, struct error *err)
{
    char line[32];
    int n = snprintf(line, sizeof line, "A%" PRId64 "\n", limit_us);

    return write(g->to, line, (size_t) n) == n ||
           error_set_errno(err, errno, "could not arm the guard process");
}

void pguard_disarm(struct pguard *g)
{
    if (!g || g->to < 0)
        return;
    while (write(g->to, "D", 1) < 0 && errno == EINTR)
        continue;
}

void pguard_abandon(struct pguard *g)
{
    if (!g)
        return;
    if (g->to >= 0)
        close(g->to);
    if (g->from >= 0)
        close(g->from);
    free(g);
}

void pguard_close(struct pguard *g)
{
    if (!g)
        return;
    pguard_disarm(g);
    if (g->to >= 0)
        close(g->to);
    if (g->from >= 0)
        close(g->from);
    while (g->pid > 0 && waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(g);
}

/* ---- the process ---- */

struct watch {
    struct cutover c;
    struct side *from;
    enum traffic_side side;
    FILE *log;
    int lock_fd; /* held until the process ends */
};

static void say(struct watch *w, const char *text, const struct error *err)
{
    char at[CLOCK_ISO_SIZE];

    clock_iso(at, clock_wall_us());
    fprintf(w->log, "%s guard[%d] %s%s%s\n", at, (int) getpid(), text, err ? ": " : "",
            err ? err->message : "");
    fflush(w->log);
}

static bool watch_open(struct watch *w, const char *run_dir, const char *from, struct error *err)
{
    struct rundir dir = {.lock_fd = -1};
    struct playbook *pb = NULL;
    char *path = xstrfmt("%s/logs/guard.log", run_dir);
    char *ini = xstrfmt("%s/playbook.ini", run_dir);
    char *lock = xstrfmt("%s/guard.lock", run_dir);
    struct playbook_source src = {.path = ini};
    bool ok;

    w->log = fopen(path, "ae");
    if (!w->log)
        w->log = stderr;
    w->side = strcmp(from, "green") == 0 ? TRAFFIC_GREEN : TRAFFIC_BLUE;
    w->from = w->side == TRAFFIC_GREEN ? &w->c.green : &w->c.blue;
    ok = file_lock(lock, &w->lock_fd, err) && rundir_find(&dir, ".", run_dir, err) &&
         playbook_load(&pb, &src, err) && cutover_open(&w->c, pb, &dir, false, err) &&
         side_open(&w->c, w->from, PG_PLAIN, "guard", &w->from->pg, err) &&
         cutover_open_traffic(&w->c, err);
    free(path);
    free(ini);
    free(lock);
    return ok;
}

/* Blue (or, in a rollback, green) is the judge: only when it says that the switch is not and can't
 * be decided may traffic go back. */
static bool revoke_switch(struct watch *w, bool *ours, struct error *err)
{
    char state[32];
    bool won = false;

    if (pg_is_bad(w->from->pg)) {
        pg_close(w->from->pg);
        w->from->pg = NULL;
        if (!side_open(&w->c, w->from, PG_PLAIN, "guard", &w->from->pg, err))
            return false;
    }
    if (!arbiter_swap(w->from->pg, w->c.names.run, "armed", "revoked", &won, err) ||
        !arbiter_read(w->from->pg, w->c.names.run, state, err))
        return false;
    *ours = won || strcmp(state, "revoked") == 0;
    return true;
}

static bool give_back(struct watch *w, struct error *err)
{
    bool ok = pg_end_worker(w->from->pg, w->c.names.run, "fence", clock_in_ms(2000), err);

    for (size_t i = 0; i < w->c.ntraffic; i++) {
        struct traffic *t = w->c.traffic[i];

        ok = traffic_switch(t, w->side, clock_in_ms(5000), err) &&
             traffic_verify(t, w->side, err) && traffic_release(t, w->side, err) && ok;
    }
    return ok;
}

static int act(struct watch *w, const char *why)
{
    int64_t deadline = clock_in_ms(ACT_DEADLINE_MS);

    say(w, why, NULL);
    while (!clock_passed(deadline)) {
        struct error err = {0};
        bool ours = false;

        if (revoke_switch(w, &ours, &err)) {
            if (!ours) {
                say(w, "the switch had been decided: leaving everything to `pgcutover resume`",
                    NULL);
                return 0;
            }
            if (give_back(w, &err)) {
                say(w, "revoked the switch and gave the traffic back", NULL);
                return 0;
            }
        }
        say(w, "trying again", &err);
        clock_sleep_ms(100);
    }
    say(w, "gave up: traffic may still be held", NULL);
    return 5;
}

/* Commands on the pipe: "A<us>\n" starts the clock, "D" ends the watch, end of file means that the
 * run died. */
static int watch_loop(struct watch *w, int fd)
{
    int64_t deadline = clock_in_ms(NEVER_ARMED_MS);
    bool armed = false;
    char line[32];
    size_t len = 0;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int rc = poll(&p, 1, clock_poll_ms(deadline));
        ssize_t got;

        if (rc == 0)
            return armed ? act(w, "the run overran its budget and did not undo it") : 0;
        if (rc < 0)
            continue;
        got = read(fd, line + len, 1);
        if (got == 0)
            return armed ? act(w, "the run is gone") : 0;
        if (got < 0 || line[len] == 'D')
            return 0;
        if (line[len] == '\n') {
            deadline = clock_us() + strtoll(line + 1, NULL, 10);
            armed = true;
            len = 0;
        } else if (len < sizeof line - 2) {
            len++;
            line[len] = '\0';
        }
    }
}

int pguard_main(const char *run_dir, const char *from, int fd_in, int fd_out)
{
    struct watch w = {0};
    struct error err = {0};
    int status = 1;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    if (watch_open(&w, run_dir, from, &err)) {
        if (write(fd_out, "R", 1) == 1)
            status = watch_loop(&w, fd_in);
    } else if (w.log) {
        say(&w, "could not start", &err);
    }
    if (w.log && w.log != stderr)
        fclose(w.log);
    cutover_close(&w.c);
    return status;
}
