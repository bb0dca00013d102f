/*
 * parse.c - the text of a playbook, through libinih, to sections and raw entries.
 *
 * libinih takes lines apart: comments, name and value, continued lines. What it would do badly is
 * kept from it by a reader of our own, which sees each line first:
 *   - it cuts section names at the first ']' and at 49 bytes, and says nothing of a section without
 * keys, so headers are read here and libinih gets "[s]";
 *   - it cuts lines at its buffer's size (200 bytes by default) and takes the rest for another
 * line, so the buffer is made as long as the longest line;
 *   - it cuts the name that a continued line belongs to at 49 bytes, so that name isn't looked at;
 *   - it takes ':' for '=' ("up.a:b = x" would be key "up.a"), so such lines are refused.
 * Its settings are variables of the process: they are set under a lock for each parse.
 */
#include "playbook/playbook_internal.h"

#include "base/alloc.h"

#include <ini.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t settings_lock = PTHREAD_MUTEX_INITIALIZER;

struct parser {
    struct playbook *pb;
    enum playbook_origin origin;
    const char *at;
    const char *end;
    int line;
    bool continued;  /* the line that libinih has now goes on the value before it */
    bool after_pair; /* an indented line would */
    bool in_section; /* some header was read, a bad one too */
    struct playbook_section *section; /* NULL: none yet, or a bad one whose keys are passed over */
    struct playbook_entry *entry;     /* NULL: none yet, or a bad one */
};

struct span {
    const char *s;
    size_t len;
};

static struct span trim(const char *s, size_t len)
{
    while (len > 0 && playbook_space(s[len - 1]))
        len--;
    while (len > 0 && playbook_space(*s)) {
        s++;
        len--;
    }
    return (struct span){s, len};
}

char *playbook_clean_name(struct playbook *pb, const char *name, size_t len)
{
    struct span from = trim(name, len);
    char *clean = arena_strndup(pb->arena, from.s, from.len);
    char *to = clean;
    bool quoted = false;

    for (const char *p = clean; *p; p++) {
        if (*p == '"')
            quoted = !quoted;
        bool blank = playbook_space(*p) && !quoted;
        if (blank && to[-1] == ' ')
            continue;
        *to++ = blank ? ' ' : *p;
    }
    *to = '\0';
    return clean;
}

static void open_section(struct parser *ps, const char *text, size_t len)
{
    struct playbook *pb = ps->pb;
    size_t n = 0;

    while (n < len && !playbook_space(text[n]))
        n++;
    const char *kind_name = arena_strndup(pb->arena, text, n);
    const char *name = playbook_clean_name(pb, text + n, len - n);
    const struct playbook_kind *kind = playbook_find_kind(kind_name);
    if (!kind) {
        const char *near = playbook_nearest_kind(kind_name);
        playbook_problem(pb, ps->origin, ps->line, "unknown section [%s]%s%s%s", kind_name,
                         near ? "; did you mean [" : "", near ? near : "", near ? "]?" : "");
        return;
    }
    struct strbuf why = {0};
    struct playbook_section *s = playbook_find_section(pb, kind->name, name);
    if (!playbook_name_ok(kind, name, &why)) {
        playbook_problem(pb, ps->origin, ps->line, "section [%s%s%s] %s", kind->name,
                         *name ? " " : "", name, strbuf_cstr(&why));
    } else if (s && s->origin == ps->origin) {
        playbook_header(&why, kind, name);
        playbook_problem(pb, ps->origin, ps->line, "duplicate section %s, first at line %d",
                         strbuf_cstr(&why), s->line);
    } else {
        if (!s)
            s = playbook_add_section(pb, kind, name);
        s->origin = ps->origin;
        s->line = ps->line;
        ps->section = s;
    }
    strbuf_release(&why);
}

/* "[kind name]", where a ']' may stand between double quotes. line has no white space at its ends.
 */
static void read_header(struct parser *ps, struct span line)
{
    bool quoted = false;
    size_t i = 1;

    ps->in_section = true;
    ps->after_pair = false;
    ps->section = NULL;
    ps->entry = NULL;
    for (; i < line.len && (quoted || line.s[i] != ']'); i++) {
        if (line.s[i] == '"')
            quoted = !quoted;
    }
    if (i >= line.len) {
        playbook_problem(ps->pb, ps->origin, ps->line, "section header without its ]");
        return;
    }
    if (i + 1 < line.len) {
        playbook_problem(ps->pb, ps->origin, ps->line, "text behind the ] of a section header");
        playbook_problem_hint(ps->pb, "A comment has a line of its own.");
        return;
    }
    struct span inner = trim(line.s + 1, i - 1);
    open_section(ps, inner.s, inner.len);
}

/* Is this "key = value"? libinih takes the first of '=' and ':'. */
static bool is_pair(struct parser *ps, struct span line)
{
    for (size_t i = 0; i < line.len; i++) {
        if (line.s[i] == '=')
            return true;
        if (line.s[i] == ':')
            break;
    }
    playbook_problem(ps->pb, ps->origin, ps->line, "neither [section] nor key = value");
    playbook_problem_hint(ps->pb, "A line that goes on the value before it is indented.");
    return false;
}

/* An ini_reader: the next line, or what libinih is to see in its place. */
static char *read_line(char *str, int num, void *stream)
{
    struct parser *ps = stream;
    const char *give;

    if (ps->at == ps->end)
        return NULL;
    const char *newline = memchr(ps->at, '\n', (size_t) (ps->end - ps->at));
    size_t len = (size_t) ((newline ? newline : ps->end) - ps->at);
    const char *raw = ps->at;
    struct span line = trim(raw, len);
    ps->at = newline ? newline + 1 : ps->end;
    ps->line++;
    bool text = line.len > 0 && *line.s != ';' && *line.s != '#';
    ps->continued = text && ps->after_pair && line.s > raw;

    if (!text || ps->continued) {
        give = raw;
    } else if (*line.s == '[') {
        read_header(ps, line);
        give = "[s]";
        len = 3;
    } else {
        give = raw;
        if (!is_pair(ps, line))
            len = 0;
    }
    if (num < 2 || len > (size_t) num - 2)
        BUG("a line of %zu bytes for a buffer of %d", len, num);
    memcpy(str, give, len);
    str[len] = '\n';
    str[len + 1] = '\0';
    return str;
}

static bool tail_ok(const struct playbook_key *spec, const char *key)
{
    const char *tail = key + strlen(spec->key);

    if (strcmp(spec->tail, "N") != 0)
        return true;
    return strspn(tail, "0123456789") == strlen(tail) && strlen(tail) <= 3 && *tail != '0' &&
           strcmp(tail, "1") != 0;
}

static void unknown_key(struct playbook *pb, struct playbook_section *s, const char *key,
                        enum playbook_origin origin, int line)
{
    struct strbuf where = {0};
    struct strbuf near = {0};

    s->mistyped = true;
    playbook_header(&where, s->kind, s->name);
    bool found = playbook_nearest_key(s->kind->name, key, &near);
    playbook_problem(pb, origin, line, "unknown key \"%s\" in %s%s%s%s", key, strbuf_cstr(&where),
                     found ? "; did you mean \"" : "", strbuf_cstr(&near), found ? "\"?" : "");
    if (!found) {
        for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
            if (strcmp(k->kind, s->kind->name) == 0)
                strbuf_addf(&near, "%s%s%s", near.len > 0 ? ", " : "", k->key,
                            k->tail ? k->tail : "");
        }
        playbook_problem_hint(pb, "The keys of [%s] are %s.", s->kind->name, strbuf_cstr(&near));
    }
    strbuf_release(&where);
    strbuf_release(&near);
}

struct playbook_entry *playbook_enter(struct playbook *pb, struct playbook_section *s,
                                      const char *key, enum playbook_origin origin, int line)
{
    const struct playbook_key *spec = playbook_find_key(s->kind->name, key);
    struct playbook_entry *e = playbook_find_entry(s, key);

    if (!spec) {
        unknown_key(pb, s, key, origin, line);
        return NULL;
    }
    if (strpbrk(key,
                "=:\n")) { /* only --set gets here with one; the run's copy could not hold it */
        playbook_problem(pb, origin, line, "a key of [%s] with = or : in it", s->kind->name);
        return NULL;
    }
    if (playbook_is_prefix(spec) && !tail_ok(spec, key)) {
        playbook_problem(pb, origin, line, "\"%s\" must be %s2, %s3 and so on", key, spec->key,
                         spec->key);
        return NULL;
    }
    if (e && e->origin == origin && origin != PLAYBOOK_FROM_SET) {
        playbook_problem(pb, origin, line, "duplicate key \"%s\" in [%s%s%s], first at line %d",
                         key, s->kind->name, *s->name ? " " : "", s->name, e->line);
        return NULL;
    }
    if (!e) {
        e = VEC_ADD(s->entries, s->nentries, s->capentries);
        e->key = arena_strndup(pb->arena, key, strlen(key));
        e->spec = spec;
    }
    strbuf_reset(&e->raw);
    e->origin = origin;
    e->line = line;
    return e;
}

static void add_text(struct parser *ps, const char *text)
{
    struct playbook_entry *e = ps->entry;

    if (!e)
        return;
    if (e->raw.len > 0)
        strbuf_addch(&e->raw, '\n');
    strbuf_addstr(&e->raw, text);
}

/* An ini_handler. The section is the one that the reader opened. */
static int take_pair(void *user, const char *section, const char *name, const char *value)
{
    struct parser *ps = user;

    (void) section;
    if (ps->continued) {
        add_text(ps, value);
        return 1;
    }
    ps->after_pair = *name != '\0';
    ps->entry = NULL;
    if (!ps->in_section) {
        playbook_problem(ps->pb, ps->origin, ps->line, "key \"%s\" before any [section]", name);
        return 1;
    }
    if (ps->section)
        ps->entry = playbook_enter(ps->pb, ps->section, name, ps->origin, ps->line);
    add_text(ps, value);
    return 1;
}

static size_t longest_line(const char *text, size_t len)
{
    size_t longest = 0;
    const char *end = text + len;

    for (const char *p = text; p < end;) {
        const char *newline = memchr(p, '\n', (size_t) (end - p));
        size_t n = (size_t) ((newline ? newline : end) - p);
        longest = n > longest ? n : longest;
        p += n + 1;
    }
    return longest;
}

static int line_of(const char *text, size_t offset)
{
    int line = 1;

    for (size_t i = 0; i < offset; i++)
        line += text[i] == '\n';
    return line;
}

bool playbook_parse(struct playbook *pb, enum playbook_origin origin,
                    const struct playbook_text *in)
{
    size_t bom = in->len >= 3 && memcmp(in->data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    struct parser ps = {
        .pb = pb, .origin = origin, .at = in->data + bom, .end = in->data + in->len};
    size_t bad = playbook_utf8(in->data, in->len);
    const char *nul = memchr(in->data, '\0', in->len);

    if (nul && (size_t) (nul - in->data) < bad) {
        playbook_problem(pb, origin, line_of(in->data, (size_t) (nul - in->data)), "a NUL byte");
        return false;
    }
    if (bad < in->len) {
        playbook_problem(pb, origin, line_of(in->data, bad), "not UTF-8");
        return false;
    }
    pthread_mutex_lock(&settings_lock);
    ini_use_stack = false;
    ini_allow_realloc = false;
    /* it wants 3 bytes to spare, and "[s]" stands in for shorter headers */
    ini_max_line = (int) longest_line(in->data, in->len) + 16;
    ini_initial_alloc = ini_max_line;
    ini_allow_inline_comments = false;
    ini_allow_multiline = true;
    ini_allow_bom = false; /* taken off above */
    ini_stop_on_first_error = false;
    ini_allow_no_value = false;
    int bad_line = ini_parse_stream(read_line, &ps, take_pair, &ps);
    pthread_mutex_unlock(&settings_lock);
    if (bad_line == -2)
        BUG("no memory for a line of the playbook");
    if (bad_line != 0 && pb->nproblems == 0)
        playbook_problem(pb, origin, bad_line, "neither [section] nor key = value");
    if (origin == PLAYBOOK_FROM_FILE)
        pb->last_line = ps.line > 0 ? ps.line : 1;
    return true;
}
