/*
 * problem.c - what is wrong with a playbook. All of it is found in one load; the first by place is
 * the error, so that fixing goes from the top, and the next few are its detail.
 */
#include "playbook/playbook_internal.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN 5

void playbook_header(struct strbuf *out, const struct playbook_kind *kind, const char *name)
{
    strbuf_addf(out, "[%s%s%s]", kind->name, *name ? " " : "", name);
}

static void add(struct playbook *pb, enum playbook_origin origin, int line, struct strbuf *text)
{
    struct playbook_problem *p = VEC_ADD(pb->problems, pb->nproblems, pb->capproblems);

    p->origin = origin;
    p->line = line;
    p->text = strbuf_take(text);
}

void playbook_problem(struct playbook *pb, enum playbook_origin origin, int line, const char *fmt,
                      ...)
{
    struct strbuf text = {0};
    va_list ap;

    if (origin == PLAYBOOK_FROM_SET)
        strbuf_addstr(&text, "--set: ");
    else
        strbuf_addf(&text, "%s:%d: ", pb->labels[origin], line);
    va_start(ap, fmt);
    strbuf_addv(&text, fmt, ap);
    va_end(ap);
    add(pb, origin, line, &text);
}

void playbook_problem_at(struct playbook *pb, const struct playbook_section *s,
                         const struct playbook_entry *e, const char *fmt, ...)
{
    struct strbuf text = {0};
    va_list ap;
    enum playbook_origin origin = e ? e->origin : s->origin;
    int line = e ? e->line : s->line;

    if (origin == PLAYBOOK_FROM_SET)
        strbuf_addstr(&text, "--set: ");
    else
        strbuf_addf(&text, "%s:%d: ", pb->labels[origin], line);
    if (e)
        strbuf_addf(&text, "%s of ", e->key);
    playbook_header(&text, s->kind, s->name);
    strbuf_addch(&text, ' ');
    va_start(ap, fmt);
    strbuf_addv(&text, fmt, ap);
    va_end(ap);
    add(pb, origin, line, &text);
}

void playbook_problem_hint(struct playbook *pb, const char *fmt, ...)
{
    struct strbuf text = {0};
    struct playbook_problem *p = &pb->problems[pb->nproblems - 1];
    va_list ap;

    va_start(ap, fmt);
    strbuf_addv(&text, fmt, ap);
    va_end(ap);
    free(p->hint);
    p->hint = strbuf_take(&text);
}

static int by_place(const void *left, const void *right)
{
    const struct playbook_problem *a = left;
    const struct playbook_problem *b = right;

    if (a->origin != b->origin)
        return a->origin < b->origin ? -1 : 1;
    if (a->line != b->line)
        return a->line < b->line ? -1 : 1;
    return strcmp(a->text, b->text); /* qsort isn't stable */
}

bool playbook_problems_none(struct playbook *pb, struct error *err)
{
    struct strbuf more = {0};
    size_t n = pb->nproblems;

    if (n == 0)
        return true;
    qsort(pb->problems, n, sizeof *pb->problems, by_place);
    error_set(err, ERR_PLAYBOOK, "%s", pb->problems[0].text);
    if (pb->problems[0].hint)
        error_hint(err, "%s", pb->problems[0].hint);
    if (n > 1) {
        strbuf_addf(&more, "and %zu more problem%s:", n - 1, n > 2 ? "s" : "");
        for (size_t i = 1; i < n && i <= SHOWN; i++)
            strbuf_addf(&more, "\n%s", pb->problems[i].text);
        if (n - 1 > SHOWN)
            strbuf_addstr(&more, "\n...");
        error_detail(err, "%s", strbuf_cstr(&more));
    }
    strbuf_release(&more);
    return false;
}
