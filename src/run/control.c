#include "run/control.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "sys/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_LIMIT 1024
#define PEER_TIMEOUT_MS 2000

struct control {
    int listener;
    int dir_fd;
    int wake[2];
    pthread_t thread;
    control_fn *fn;
    void *ctx;
};

/* sun_path holds 108 bytes; run directories may lie deeper. The directory's descriptor gives a
 * short name for it. */
static bool socket_at(int *fd, struct sockaddr_un *addr, int dir_fd, struct error *err)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(addr->sun_path, sizeof addr->sun_path, "/proc/self/fd/%d/control.sock", dir_fd);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return *fd >= 0 || error_set_errno(err, errno, "could not make a socket");
}

static bool wait_for(int fd, short events, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, timeout_ms) == 1;
}

static void serve(struct control *c, int peer)
{
    char line[LINE_LIMIT];
    size_t len = 0;
    struct strbuf answer = {0};

    while (len < sizeof line - 1 && wait_for(peer, POLLIN, PEER_TIMEOUT_MS)) {
        ssize_t got = read(peer, line + len, sizeof line - 1 - len);

        if (got <= 0)
            break;
        len += (size_t) got;
        if (memchr(line, '\n', len))
            break;
    }
    line[len] = '\0';
    line[strcspn(line, "\n")] = '\0';
    c->fn(c->ctx, line, &answer);
    for (size_t at = 0; at < answer.len && wait_for(peer, POLLOUT, PEER_TIMEOUT_MS);) {
        ssize_t put = send(peer, answer.data + at, answer.len - at, MSG_NOSIGNAL);

        if (put <= 0)
            break;
        at += (size_t) put;
    }
    strbuf_release(&answer);
}

static void *control_main(void *arg)
{
    struct control *c = arg;

    for (;;) {
        struct pollfd p[2] = {{.fd = c->listener, .events = POLLIN},
                              {.fd = c->wake[0], .events = POLLIN}};

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents)
            break;
        if (p[0].revents & POLLIN) {
            int peer = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);

            if (peer >= 0) {
                serve(c, peer);
                close(peer);
            }
        }
    }
    return NULL;
}

static void control_free(struct control *c)
{
    if (c->listener >= 0)
        close(c->listener);
    if (c->dir_fd >= 0)
        close(c->dir_fd);
    if (c->wake[0] >= 0)
        close(c->wake[0]);
    if (c->wake[1] >= 0)
        close(c->wake[1]);
    free(c);
}

bool control_start(struct control **out, const char *dir, control_fn *fn, void *ctx,
                   struct error *err)
{
    struct control *c = xcalloc(1, sizeof *c);
    struct sockaddr_un addr;
    bool ok = false;

    *c = (struct control){.listener = -1, .dir_fd = -1, .wake = {-1, -1}, .fn = fn, .ctx = ctx};
    c->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir_fd < 0 || pipe2(c->wake, O_CLOEXEC) != 0) {
        error_set_errno(err, errno, "could not open %s", dir);
        goto out;
    }
    if (!socket_at(&c->listener, &addr, c->dir_fd, err))
        goto out;
    /* A socket left by a killed process: we hold the directory's lock, so nobody listens on it. */
    unlinkat(c->dir_fd, "control.sock", 0);
    if (bind(c->listener, (struct sockaddr *) &addr, sizeof addr) != 0 ||
        fchmodat(c->dir_fd, "control.sock", 0600, 0) != 0 || listen(c->listener, 8) != 0) {
        error_set_errno(err, errno, "could not listen on %s/control.sock", dir);
        goto out;
    }
    ok = thread_start(&c->thread, "control", control_main, c, err);
out:
    if (!ok)
        control_free(c);
    else
        *out = c;
    return ok;
}

void control_stop(struct control *c)
{
    if (!c)
        return;
    while (write(c->wake[1], "x", 1) < 0 && errno == EINTR)
        continue;
    pthread_join(c->thread, NULL);
    unlinkat(c->dir_fd, "control.sock", 0);
    control_free(c);
}

bool control_send(const char *dir, const char *line, struct strbuf *answer, struct error *err)
{
    struct sockaddr_un addr;
    char buf[4096];
    ssize_t got;
    int fd = -1;
    bool ok = false;
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0)
        return error_set_errno(err, errno, "could not open %s", dir);
    if (!socket_at(&fd, &addr, dir_fd, err))
        goto out;
    if (connect(fd, (struct sockaddr *) &addr, sizeof addr) != 0) {
        error_set(err, ERR_CONNECT, "no process works on run %s", dir);
        error_hint(
            err,
            "`pgcutover status %s` says where it stands, `pgcutover resume %s` goes on with it.",
            dir, dir);
        goto out;
    }
    snprintf(buf, sizeof buf, "%s\n", line);
    if (send(fd, buf, strlen(buf), MSG_NOSIGNAL) < 0) {
        error_set_errno(err, errno, "could not write to %s/control.sock", dir);
        goto out;
    }
    while (wait_for(fd, POLLIN, 10 * PEER_TIMEOUT_MS) && (got = read(fd, buf, sizeof buf)) > 0)
        strbuf_add(answer, buf, (size_t) got);
    ok = true;
out:
    if (fd >= 0)
        close(fd);
    close(dir_fd);
    return ok;
}
