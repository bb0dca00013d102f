/*
 * set.c - --set section.key=value, laid over the files. "traffic edge.driver=command": both the
 * section's name and the key may have dots in them ("map public.orders.up.total"), so the way is
 * cut where what follows is a key of that kind, and where several cuts would do, at the one whose
 * section is there already.
 */
#include "playbook/playbook_internal.h"

#include <string.h>

/* Could a header hold it? A line break, a quote without its second, or a bare ']' could not. */
static bool header_holds(const char *name)
{
    bool quoted = false;

    for (const char *p = name; *p; p++) {
        if (*p == '"')
            quoted = !quoted;
        if (*p == '\n' || (*p == ']' && !quoted))
            return false;
    }
    return !quoted;
}

/* The cut: way[0..at) is the section, way+at+1 the key. */
static const char *find_cut(struct playbook *pb, const struct playbook_kind *kind, const char *rest)
{
    const char *first = NULL;
    bool quoted = false;

    for (const char *p = rest; *p; p++) {
        if (*p == '"')
            quoted = !quoted;
        if (quoted || *p != '.' || !playbook_find_key(kind->name, p + 1))
            continue;
        const char *name = playbook_clean_name(pb, rest, (size_t) (p - rest));
        if (playbook_find_section(pb, kind->name, name))
            return p;
        if (!first)
            first = p;
    }
    return first;
}

static size_t way_length(const char *set)
{
    bool quoted = false;
    size_t i = 0;

    for (; set[i] && (quoted || set[i] != '='); i++) {
        if (set[i] == '"')
            quoted = !quoted;
    }
    return i;
}

static void apply(struct playbook *pb, const char *way, const char *value, int n)
{
    size_t len = strcspn(way, " .");
    const char *kind_name = arena_strndup(pb->arena, way, len);
    const struct playbook_kind *kind = playbook_find_kind(kind_name);
    struct strbuf why = {0};

    if (!kind) {
        const char *near = playbook_nearest_kind(kind_name);
        playbook_problem(pb, PLAYBOOK_FROM_SET, n, "%s: unknown section [%s]%s%s%s", way, kind_name,
                         near ? "; did you mean [" : "", near ? near : "", near ? "]?" : "");
        return;
    }
    const char *rest = way + len;
    const char *cut = find_cut(pb, kind, rest);
    if (!cut) /* the message about the key shall name what stands behind the last dot */
        cut = *rest == '.' ? rest : strrchr(rest, '.');
    if (!cut) {
        playbook_problem(pb, PLAYBOOK_FROM_SET, n, "%s: no key; write %s=value", way,
                         kind->naming == PLAYBOOK_SINGLE ? "section.key" : "\"section name.key\"");
        return;
    }
    const char *name = playbook_clean_name(pb, rest, (size_t) (cut - rest));
    struct playbook_section *s = playbook_find_section(pb, kind->name, name);
    if (!header_holds(name)) {
        playbook_problem(pb, PLAYBOOK_FROM_SET, n, "number %d has no usable section name", n);
    } else if (!s && !playbook_name_ok(kind, name, &why)) {
        playbook_problem(pb, PLAYBOOK_FROM_SET, n, "%s: section [%s%s%s] %s", way, kind->name,
                         *name ? " " : "", name, strbuf_cstr(&why));
    } else {
        if (!s) {
            s = playbook_add_section(pb, kind, name);
            s->origin = PLAYBOOK_FROM_SET;
            s->line = n;
        }
        struct playbook_entry *e = playbook_enter(pb, s, cut + 1, PLAYBOOK_FROM_SET, n);
        if (e)
            strbuf_addstr(&e->raw, value);
    }
    strbuf_release(&why);
}

/* As the lines of a file would be read, so that what playbook_write makes of the value is read as
 * the same: trimmed, without empty lines and comments. */
static char *as_lines(struct playbook *pb, const char *value)
{
    char *out = arena_strndup(pb->arena, value, strlen(value));
    char *to = out;

    for (const char *p = value; *p;) {
        size_t len = strcspn(p, "\n");
        const char *next = p[len] ? p + len + 1 : p + len;
        while (len > 0 && playbook_space(p[len - 1]))
            len--;
        while (len > 0 && playbook_space(*p)) {
            p++;
            len--;
        }
        if (len > 0 && (to == out || (*p != ';' && *p != '#'))) {
            if (to > out)
                *to++ = '\n';
            memcpy(to, p, len);
            to += len;
        }
        p = next;
    }
    *to = '\0';
    return out;
}

void playbook_apply_sets(struct playbook *pb, const char *const *sets)
{
    for (int n = 1; sets && *sets; sets++, n++) {
        size_t len = way_length(*sets);
        /* What has no '=' might be a secret that lost its key: it isn't shown. */
        if ((*sets)[len] != '=') {
            playbook_problem(pb, PLAYBOOK_FROM_SET, n,
                             "no \"=\" in number %d; write section.key=value", n);
            continue;
        }
        if (playbook_utf8(*sets, strlen(*sets)) < strlen(*sets)) {
            playbook_problem(pb, PLAYBOOK_FROM_SET, n, "number %d is not UTF-8", n);
            continue;
        }
        apply(pb, playbook_clean_name(pb, *sets, len), as_lines(pb, *sets + len + 1), n);
    }
}
