#include "sys/process.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "sys/file.h"
#include "sys/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAIL_SIZE ((size_t) 2047)
#define TICK_MS 250
#define KILL_AFTER_MS 5000
#define DEFAULT_CEILING ((size_t) 1024 * 1024)

extern char **environ;

/*
 * A child's life: running; ending (TERM was sent, because of the deadline or a stop); killed. gone
 * says that it is a zombie: it is reaped last, so that its group's number can't be another's when
 * we signal it.
 */
struct child {
    pid_t pid;
    int pidfd; /* -1 where the kernel has none: then it is looked at every TICK_MS */
    int out;   /* read ends; -1 when closed */
    int err;
    int log;
    struct strbuf tail;
    bool ending;
    bool killed;
    bool gone;
    int64_t kill_at;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static bool make_pipe(int *read_end, int *write_end, struct error *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return error_set_errno(err, errno, "could not create a pipe");
    *read_end = fds[0];
    *write_end = fds[1];
    int flags = fcntl(*read_end, F_GETFL);
    fcntl(*read_end, F_SETFL, flags | O_NONBLOCK);
    return true;
}

static bool same_name(const char *a, const char *b)
{
    size_t len = strcspn(b, "=");
    return strncmp(a, b, len) == 0 && a[len] == '=';
}

/* Our environment with extra laid over it; the array is the caller's, the strings are not. */
static char **merge_environment(const char *const *extra)
{
    char **list = NULL;
    size_t n = 0;
    size_t cap = 0;

    for (char **e = environ; e && *e; e++) {
        bool replaced = false;
        for (size_t i = 0; extra && extra[i] && !replaced; i++)
            replaced = same_name(*e, extra[i]);
        if (!replaced)
            *VEC_ADD(list, n, cap) = *e;
    }
    for (size_t i = 0; extra && extra[i]; i++)
        *VEC_ADD(list, n, cap) = (char *) (uintptr_t) extra[i];
    *VEC_ADD(list, n, cap) = NULL;
    return list;
}

static void set_attributes(posix_spawnattr_t *attr)
{
    sigset_t none;
    sigset_t usual;

    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    sigaddset(&usual, SIGHUP);
    posix_spawnattr_setsigmask(attr, &none);
    posix_spawnattr_setsigdefault(attr, &usual);
    posix_spawnattr_setpgroup(attr, 0);
    posix_spawnattr_setflags(
        attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

/* Without an out the child's stdout goes where its stderr goes, in the order of writing. */
static int set_files(posix_spawn_file_actions_t *files, const char *cwd, int out, int err)
{
    int rc = posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, out >= 0 ? out : err, 1);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, err, 2);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(files, 3);
    if (rc == 0 && cwd)
        rc = posix_spawn_file_actions_addchdir_np(files, cwd);
    return rc;
}

static bool spawn(struct child *c, const struct process_options *opts, const char *const *argv,
                  int out, int errfd, struct error *err)
{
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t files;
    char **env = merge_environment(opts->env);

    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_init(&files);
    set_attributes(&attr);
    int rc = set_files(&files, opts->cwd, out, errfd);
    if (rc == 0)
        rc = posix_spawnp(&c->pid, argv[0], &files, &attr, (char *const *) (uintptr_t) argv, env);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    free(env);
    if (rc == 0) {
        c->pidfd = pidfd_open(c->pid, 0);
        return true;
    }
    error_set_errno(err, rc, "could not start \"%s\"", argv[0]);
    err->code = ERR_CHILD;
    if (opts->cwd)
        error_detail(err, "in directory \"%s\"", opts->cwd);
    return false;
}

static bool open_log(struct child *c, const char *path, struct error *err)
{
    if (!path)
        return true;
    c->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return c->log >= 0 || error_set_errno(err, errno, "could not open \"%s\"", path);
}

static bool start(struct child *c, const struct process_options *opts, const char *const *argv,
                  struct error *err)
{
    int out = -1;
    int errfd = -1;
    bool ok = open_log(c, opts->log_path, err) && make_pipe(&c->err, &errfd, err) &&
              (!opts->out || make_pipe(&c->out, &out, err)) &&
              spawn(c, opts, argv, out, errfd, err);
    close_fd(&out);
    close_fd(&errfd);
    return ok;
}

static void keep_out(const struct process_options *opts, size_t before, const char *p, size_t n)
{
    size_t ceiling = opts->out_ceiling ? opts->out_ceiling : DEFAULT_CEILING;
    size_t have = opts->out->len - before;
    size_t room = have < ceiling ? ceiling - have : 0;
    strbuf_add(opts->out, p, n < room ? n : room);
}

static void keep_tail(struct strbuf *tail, const char *p, size_t n)
{
    if (n > TAIL_SIZE) {
        p += n - TAIL_SIZE;
        n = TAIL_SIZE;
    }
    if (tail->len + n > TAIL_SIZE) {
        size_t drop = tail->len + n - TAIL_SIZE;
        memmove(tail->data, tail->data + drop, tail->len - drop);
        tail->len -= drop;
    }
    strbuf_add(tail, p, n);
}

/* A log that can't be written any more (disk full) is no reason to fail the child: the tail is
 * kept. */
static void keep_err(struct child *c, const char *p, size_t n)
{
    struct error ignored = {0};
    keep_tail(&c->tail, p, n);
    if (c->log >= 0 && !file_write_all(c->log, p, n, "log", &ignored))
        close_fd(&c->log);
}

/* At most what the largest pipe holds (1 MB, pipe(7)), so that a child that never ceases is still
 * timed. */
static void drain(struct child *c, const struct process_options *opts, size_t before, int *fd)
{
    char chunk[16384];
    for (int round = 0; *fd >= 0 && round < 64; round++) {
        ssize_t n = read(*fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            close_fd(fd);
        else if (fd == &c->out)
            keep_out(opts, before, chunk, (size_t) n);
        else
            keep_err(c, chunk, (size_t) n);
        if (n < (ssize_t) sizeof chunk)
            return;
    }
}

static bool is_gone(const struct child *c)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t) c->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == c->pid;
}

static void wait_for_something(struct child *c)
{
    struct pollfd fds[3];
    nfds_t n = 0;

    if (c->out >= 0)
        fds[n++] = (struct pollfd){.fd = c->out, .events = POLLIN};
    if (c->err >= 0)
        fds[n++] = (struct pollfd){.fd = c->err, .events = POLLIN};
    if (c->pidfd >= 0 && !c->gone)
        fds[n++] = (struct pollfd){.fd = c->pidfd, .events = POLLIN};
    poll(fds, n, c->pidfd >= 0 ? TICK_MS : TICK_MS / 10);
}

static bool must_end(const struct process_options *opts, int64_t deadline_us, struct error *why)
{
    if (!opts->ignore_stop && !stop_check(why))
        return true;
    return clock_passed(deadline_us) && !error_set(why, ERR_TIMEOUT, "took too long");
}

/* Signals the whole group; while the leader is unreaped its number is nobody else's. */
static void push_to_end(struct child *c)
{
    if (!c->ending) {
        c->ending = true;
        c->kill_at = clock_in_ms(KILL_AFTER_MS);
        kill(-c->pid, SIGTERM);
    } else if (!c->killed && clock_passed(c->kill_at)) {
        c->killed = true;
        kill(-c->pid, SIGKILL);
    }
}

/*
 * Until the child is gone. When we end it, also until the last of its group has let go of the pipes
 * or was killed: a shell dies of TERM at once, and what it ran may still be putting things in
 * order.
 */
static void attend(struct child *c, const struct process_options *opts, struct error *why)
{
    size_t before = opts->out ? opts->out->len : 0;
    int64_t deadline_us = opts->deadline_us ? opts->deadline_us : CLOCK_NONE;
    int64_t next_tick = clock_in_ms(TICK_MS);

    for (;;) {
        c->gone = is_gone(c);
        drain(c, opts, before, &c->out);
        drain(c, opts, before, &c->err);
        bool silent = c->out < 0 && c->err < 0;
        if (c->gone && (!c->ending || silent || c->killed))
            return;
        if (c->ending || must_end(opts, deadline_us, why))
            push_to_end(c);
        wait_for_something(c);
        if (opts->tick && clock_passed(next_tick)) {
            opts->tick(opts->ctx);
            next_tick = clock_in_ms(TICK_MS);
        }
    }
}

static const char *trimmed_tail(struct child *c)
{
    while (c->tail.len > 0 && strchr(" \t\r\n", c->tail.data[c->tail.len - 1]))
        c->tail.data[--c->tail.len] = '\0';
    const char *s = strbuf_cstr(&c->tail);
    /* the cut may have been inside a line, or a character of several bytes */
    const char *line = c->tail.len + 256 > TAIL_SIZE ? strchr(s, '\n') : NULL;
    return line && line[1] ? line + 1 : s;
}

static bool outcome(struct child *c, const char *program, int status, const struct error *why,
                    struct error *err)
{
    if (c->ending && why->code == ERR_TIMEOUT)
        error_set(err, ERR_TIMEOUT, "\"%s\" took too long and was ended", program);
    else if (c->ending)
        *err = *why;
    else if (WIFSIGNALED(status))
        error_set(err, ERR_CHILD, "\"%s\" was ended by signal %d (%s)", program, WTERMSIG(status),
                  strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        error_set(err, ERR_CHILD, "\"%s\" failed with exit status %d", program,
                  WEXITSTATUS(status));
    else
        return true;
    return error_detail(err, "%s", trimmed_tail(c));
}

static bool run(const struct process_options *opts, const char *const *argv, const char *shown,
                struct error *err)
{
    struct child c = {.pidfd = -1, .out = -1, .err = -1, .log = -1};
    struct error why = {0};
    int status = 0;
    bool ok = opts->ignore_stop || stop_check(err);

    ok = ok && start(&c, opts, argv, err);
    if (ok) {
        attend(&c, opts, &why);
        while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
            continue;
        ok = outcome(&c, shown, status, &why, err);
    }
    close_fd(&c.pidfd);
    close_fd(&c.out);
    close_fd(&c.err);
    close_fd(&c.log);
    strbuf_release(&c.tail);
    return ok;
}

bool process_run(const struct process_options *opts, struct error *err)
{
    return run(opts, opts->argv, opts->argv[0], err);
}

bool process_shell(const char *command, const struct process_options *opts, struct error *err)
{
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    return run(opts, argv, command, err);
}

static bool is_program(const char *path)
{
    return file_exists(path) && access(path, X_OK) == 0;
}

static bool take_if_program(char *candidate, char **path)
{
    if (is_program(candidate)) {
        *path = candidate;
        return true;
    }
    free(candidate);
    return false;
}

static bool is_number(const char *s)
{
    return *s && strlen(s) <= 4 && s[strspn(s, "0123456789")] == '\0';
}

/* Debian's layout, /usr/lib/postgresql/15/bin; the newest release that has the tool. */
static bool find_versioned(const char *tool, int min_major, char **path)
{
    static const char base[] = "/usr/lib/postgresql";
    struct error ignored = {0};
    char **names = NULL;
    size_t count = 0;
    long best = min_major - 1;

    *path = NULL;
    if (!file_list(base, &names, &count, &ignored))
        return false;
    for (size_t i = 0; i < count; i++) {
        long major = is_number(names[i]) ? strtol(names[i], NULL, 10) : 0;
        char *found = NULL;
        if (major <= best ||
            !take_if_program(xstrfmt("%s/%s/bin/%s", base, names[i], tool), &found))
            continue;
        free(*path);
        *path = found;
        best = major;
    }
    file_free_list(names);
    return *path != NULL;
}

static bool find_in_path(const char *tool, char **path)
{
    const char *p = getenv("PATH");
    while (p && *p) {
        size_t len = strcspn(p, ":");
        if (len > 0 && take_if_program(xstrfmt("%.*s/%s", (int) len, p, tool), path))
            return true;
        p += len + (p[len] == ':');
    }
    return false;
}

bool process_find_pg_tool(const char *tool, int min_major, char **path, struct error *err)
{
    const char *bindir = getenv("PGCUTOVER_BINDIR");
    if (bindir && *bindir && take_if_program(xstrfmt("%s/%s", bindir, tool), path))
        return true;
    if (find_versioned(tool, min_major, path) || find_in_path(tool, path))
        return true;
    error_set(err, ERR_CHILD, "there is no %s for PostgreSQL %d or newer", tool, min_major);
    return error_hint(err,
                      "Install the client tools (on Debian: apt-get install "
                      "postgresql-client-%d), or set PGCUTOVER_BINDIR to their directory.",
                      min_major);
}
