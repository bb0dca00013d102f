#include "base/fault.h"

#include "base/alloc.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum action { ACTION_DIE, ACTION_STALL, ACTION_ERROR };

struct point {
    char *name;
    enum action action;
    unsigned long at; /* 0: at every passing */
    atomic_ulong passed;
};

#define MAX_POINTS 32
static struct point points[MAX_POINTS];
static size_t npoints;
static pthread_once_t once = PTHREAD_ONCE_INIT;
enum { UNREAD, OFF, ON };
static atomic_int state = UNREAD;

static enum action parse_action(const char *word, size_t len)
{
    static const char *const names[] = {"die", "stall", "error"};
    for (size_t i = 0; i < 3; i++)
        if (strlen(names[i]) == len && memcmp(names[i], word, len) == 0)
            return (enum action) i;
    BUG("PGCUTOVER_FAULT: unknown action \"%.*s\"", (int) len, word);
}

/* "name=action" or "name=action@passing" */
static void parse_point(const char *text, size_t len)
{
    const char *end = text + len;
    const char *eq = memchr(text, '=', len);
    if (!eq || npoints == MAX_POINTS)
        BUG("PGCUTOVER_FAULT: \"%.*s\" has no action, or there are too many", (int) len, text);
    const char *at = memchr(eq, '@', (size_t) (end - eq));
    const char *action = eq + 1;
    struct point *p = &points[npoints++];
    p->name = xstrndup(text, (size_t) (eq - text));
    p->action = parse_action(action, (size_t) ((at ? at : end) - action));
    p->at = at ? strtoul(at + 1, NULL, 10) : 0;
}

static void read_environment(void)
{
    const char *s = getenv("PGCUTOVER_FAULT");
    while (s && *s) {
        size_t len = strcspn(s, ",");
        if (len > 0)
            parse_point(s, len);
        s += len + (s[len] == ',');
    }
    atomic_store(&state, npoints > 0 ? ON : OFF);
}

static bool strike(const struct point *p, struct error *err)
{
    switch (p->action) {
    case ACTION_DIE:
        kill(getpid(), SIGKILL);
        break;
    case ACTION_STALL:
        kill(getpid(), SIGSTOP);
        break;
    case ACTION_ERROR:
        return error_set(err, ERR_INTERNAL, "fault %s", p->name);
    }
    return true;
}

bool fault_hit(const char *name, struct error *err)
{
    if (atomic_load_explicit(&state, memory_order_acquire) == OFF)
        return true;
    pthread_once(&once, read_environment);
    for (size_t i = 0; i < npoints; i++) {
        struct point *p = &points[i];
        if (strcmp(p->name, name) != 0)
            continue;
        unsigned long passing = atomic_fetch_add(&p->passed, 1) + 1;
        if ((p->at == 0 || p->at == passing) && !strike(p, err))
            return false;
    }
    return true;
}
