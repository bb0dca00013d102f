#include "ui/screen.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/human.h"
#include "base/strbuf.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PLAIN_EVERY_US 5000000
#define FAST_EVERY_US 100000
#define BAR_WIDTH 20

struct screen {
    bool quiet;
    bool terminal; /* standard error rewrites its last line */
    bool line_open;
    char *run_name;
    char what[96];
    int64_t began_us, shown_us, first_done;
    char answer[128];
    size_t answer_len;
};

static void close_line(struct screen *s)
{
    if (s->line_open)
        fprintf(stderr, "\r\033[K");
    s->line_open = false;
}

static int columns(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

static void bar(char out[BAR_WIDTH + 1], int64_t done, int64_t total)
{
    int64_t full = total > 0 ? done * BAR_WIDTH / total : 0;

    for (int i = 0; i < BAR_WIDTH; i++)
        out[i] = i < full ? '#' : '.';
    out[BAR_WIDTH] = '\0';
}

static void amount(char out[HUMAN_SIZE], int64_t n, const char *unit)
{
    if (unit && strcmp(unit, "bytes") == 0)
        human_bytes(out, n);
    else
        human_count(out, n);
}

static void progress_text(struct screen *s, const struct event *ev, struct strbuf *out)
{
    int64_t us = clock_us() - s->began_us, moved = ev->done - s->first_done;
    const char *unit = ev->unit && strcmp(ev->unit, "bytes") != 0 ? ev->unit : "";
    char a[HUMAN_SIZE], b[HUMAN_SIZE], r[HUMAN_SIZE], left[CLOCK_HUMAN_SIZE], drawn[BAR_WIDTH + 1];
    int64_t done = ev->total > 0 && ev->done > ev->total ? ev->total : ev->done;
    int64_t rate = us > 0 ? (int64_t) ((double) moved * 1e6 / (double) us) : 0;

    amount(a, done, ev->unit);
    amount(b, ev->total, ev->unit);
    amount(r, rate, ev->unit);
    strbuf_addf(out, "    %s ", ev->object ? ev->object : "");
    if (ev->total > 0) {
        bar(drawn, done, ev->total);
        strbuf_addf(out, "[%s] %3d %%  %s of %s %s", drawn, (int) (done * 100 / ev->total), a, b,
                    unit);
    } else {
        strbuf_addf(out, "%s %s", a, unit);
    }
    if (rate > 0)
        strbuf_addf(out, "  %s/s", r);
    if (rate > 0 && ev->total > done) {
        clock_human(left, (ev->total - done) * 1000000 / rate);
        strbuf_addf(out, "  %s left", left);
    }
}

static void show_progress(struct screen *s, const struct event *ev)
{
    int64_t now = clock_us(), every = s->terminal ? FAST_EVERY_US : PLAIN_EVERY_US;
    struct strbuf text = {0};

    if (strncmp(s->what, ev->object ? ev->object : "", sizeof s->what - 1) != 0) {
        snprintf(s->what, sizeof s->what, "%s", ev->object ? ev->object : "");
        s->began_us = now;
        s->first_done = ev->done;
        if (!s->terminal)
            s->shown_us = now;
    }
    if (now - s->shown_us < every)
        return;
    s->shown_us = now;
    progress_text(s, ev, &text);
    if (s->terminal) {
        fprintf(stderr, "\r\033[K%.*s", columns() - 1, text.data);
        s->line_open = true;
    } else {
        fprintf(stderr, "%s\n", text.data);
    }
    strbuf_release(&text);
}

static void show_step(struct screen *s, const struct event *ev)
{
    char took[CLOCK_HUMAN_SIZE];

    s->what[0] = '\0';
    clock_human(took, ev->elapsed_us);
    if (strcmp(ev->object, "begin") == 0)
        fprintf(stderr, "%-10s %s\n", ev->step, ev->text);
    else if (strcmp(ev->object, "undo") == 0)
        fprintf(stderr, "%-10s being undone\n", ev->step);
    else
        fprintf(stderr, "%-10s %s (%s)\n", ev->step, ev->object, took);
}

static void on_event(void *ctx, const struct event *ev)
{
    struct screen *s = ctx;

    if (s->quiet && ev->kind != EVENT_WARN)
        return;
    if (ev->kind == EVENT_PROGRESS) {
        show_progress(s, ev);
        return;
    }
    close_line(s);
    switch (ev->kind) {
    case EVENT_STEP:
        show_step(s, ev);
        break;
    case EVENT_WARN:
        fprintf(stderr, "warning: %s\n", ev->text);
        break;
    case EVENT_PAUSE:
        fprintf(stderr, "    pause  %8.1f ms  %s\n", (double) ev->elapsed_us / 1000.0, ev->object);
        break;
    case EVENT_GATE:
        fprintf(stderr, "gate %s\n%s", ev->step, ev->text ? ev->text : "");
        break;
    default:
        fprintf(stderr, "    %s\n", ev->text ? ev->text : "");
    }
    fflush(stderr);
}

struct screen *screen_new(bool quiet, const char *run_name)
{
    struct screen *s = xcalloc(1, sizeof *s);
    const char *term = getenv("TERM");

    s->quiet = quiet;
    s->terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    s->run_name = xstrdup(run_name);
    event_subscribe(on_event, s);
    return s;
}

void screen_free(struct screen *s)
{
    if (!s)
        return;
    event_unsubscribe(on_event, s);
    close_line(s);
    free(s->run_name);
    free(s);
}

bool screen_can_ask(const struct screen *s)
{
    (void) s;
    return isatty(STDIN_FILENO);
}

static enum screen_answer meaning(const struct screen *s)
{
    if (strcmp(s->answer, s->run_name) == 0)
        return SCREEN_GO;
    if (strcmp(s->answer, "wait") == 0)
        return SCREEN_WAIT;
    if (strcmp(s->answer, "stop") == 0)
        return SCREEN_STOP;
    if (strcmp(s->answer, "abort") == 0)
        return SCREEN_ABORT;
    fprintf(stderr, "Type %s to go, or wait, stop, abort: ", s->run_name);
    return SCREEN_NONE;
}

enum screen_answer screen_ask(struct screen *s, const char *gate, bool first)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};

    if (first)
        fprintf(stderr, "%s: type the run's name, %s, to go; or wait, stop, abort: ", gate,
                s->run_name);
    while (poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) {
        char ch;

        if (read(STDIN_FILENO, &ch, 1) != 1)
            return SCREEN_STOP; /* the terminal is gone: the run can be resumed */
        if (ch == '\n') {
            s->answer[s->answer_len] = '\0';
            s->answer_len = 0;
            return meaning(s);
        }
        if (s->answer_len < sizeof s->answer - 1)
            s->answer[s->answer_len++] = ch;
    }
    return SCREEN_NONE;
}
