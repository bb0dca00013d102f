/*
 * resolve.c - raw values to resolved ones: ${NAME}, @file, types and ranges; and what a section
 * must have.
 *
 * Messages show a value as the playbook has it, never what a variable or a file made of it, and not
 * even that where the key may hold a secret.
 */
#include "playbook/playbook_internal.h"

#include "sys/file.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN_BYTES 60

/* Tells of a bad value: "jobs of [clone] is not a whole number, such as 2: "many"". */
static void bad_value(struct playbook *pb, const struct playbook_section *s,
                      const struct playbook_entry *e, const char *why)
{
    size_t len = strcspn(strbuf_cstr(&e->raw), "\n");
    bool hidden = (e->spec->flags & PLAYBOOK_SECRET) != 0 || e->spec->type == PLAYBOOK_CONNINFO;

    if (hidden) {
        playbook_problem_at(pb, s, e, "%s", why);
        return;
    }
    if (len > SHOWN_BYTES) {
        len = SHOWN_BYTES;
        while (len > 0 && ((unsigned char) e->raw.data[len] & 0xc0) == 0x80)
            len--;
    }
    playbook_problem_at(pb, s, e, "%s: \"%.*s%s\"", why, (int) len, strbuf_cstr(&e->raw),
                        len < e->raw.len ? "..." : "");
}

static bool name_char(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* p is behind "${". Returns what is behind its "}", or NULL. */
static const char *expand_one(const char *p, struct strbuf *out, struct strbuf *why)
{
    size_t len = 0;

    while (name_char(p[len]))
        len++;
    if (len == 0 || p[len] != '}' || (*p >= '0' && *p <= '9')) {
        strbuf_addstr(why, "has a ${ that is not ${NAME}; a literal one is written $${");
        return NULL;
    }
    char *name = strndup(p, len);
    const char *value = name ? getenv(name) : NULL;
    free(name);
    if (!value) {
        strbuf_addf(why, "wants ${%.*s}, which is not set in the environment", (int) len, p);
        return NULL;
    }
    if (playbook_utf8(value, strlen(value)) < strlen(value)) {
        strbuf_addf(why, "wants ${%.*s}, which is not UTF-8", (int) len, p);
        return NULL;
    }
    strbuf_addstr(out, value);
    return p + len + 1;
}

bool playbook_expand(const char *raw, struct strbuf *out, struct strbuf *why)
{
    for (const char *p = raw; p && *p;) {
        if (strncmp(p, "$${", 3) == 0) {
            strbuf_addstr(out, "${");
            p += 3;
        } else if (strncmp(p, "${", 2) == 0) {
            p = expand_one(p + 2, out, why);
            if (!p)
                return false;
        } else {
            strbuf_addch(out, *p++);
        }
        if (out->len > PLAYBOOK_VALUE_MAX) {
            strbuf_addstr(why, "is over 1 MB");
            return false;
        }
    }
    return true;
}

static char *absolute(struct playbook *pb, const char *path)
{
    if (*path == '/')
        return arena_strndup(pb->arena, path, strlen(path));
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    char *joined = xstrfmt("%s/%s", strcmp(pb->dir, "/") == 0 ? "" : pb->dir, path);
    char *copy = arena_strndup(pb->arena, joined, strlen(joined));
    free(joined);
    return copy;
}

static bool read_value(struct playbook *pb, const struct playbook_entry *e, const char *path,
                       struct strbuf *out, struct strbuf *why)
{
    struct error err = {0};
    const char *shown = strstr(strbuf_cstr(&e->raw), "${") ? strbuf_cstr(&e->raw) + 1 : path;

    if (!pb->read(absolute(pb, path), out, &err)) {
        strbuf_addf(why, "is to come from a file: %s",
                    shown == path ? err.message : "it can't be read");
        return false;
    }
    while (out->len > 0 && playbook_space(out->data[out->len - 1]))
        out->data[--out->len] = '\0';
    if (out->len > PLAYBOOK_VALUE_MAX)
        strbuf_addf(why, "is to come from %s, which is over 1 MB", shown);
    else if (out->len > 0 && memchr(out->data, '\0', out->len))
        strbuf_addf(why, "is to come from %s, which has a NUL byte", shown);
    else if (playbook_utf8(strbuf_cstr(out), out->len) < out->len)
        strbuf_addf(why, "is to come from %s, which is not UTF-8", shown);
    else
        return true;
    return false;
}

/* "@file" is the file's text, without the white space at its end; "@@x" is a literal "@x". Only an
 * '@' that stands in the playbook counts: a variable's value is never a file's name. */
static bool resolve_text(struct playbook *pb, const struct playbook_entry *e, struct strbuf *out,
                         struct strbuf *why)
{
    const char *raw = strbuf_cstr(&e->raw);
    bool from_file = raw[0] == '@' && raw[1] != '@';
    struct strbuf path = {0};

    if (e->raw.len > PLAYBOOK_VALUE_MAX) {
        strbuf_addstr(why, "is over 1 MB");
        return false;
    }
    bool ok = playbook_expand(raw[0] == '@' ? raw + 1 : raw, from_file ? &path : out, why);
    if (ok && from_file)
        ok = read_value(pb, e, strbuf_cstr(&path), out, why);
    if (ok && out->len == 0) {
        strbuf_addstr(why, "is empty");
        ok = false;
    }
    strbuf_release(&path);
    return ok;
}

static const char *const *split_list(struct playbook *pb, const char *text)
{
    size_t n = 0;
    const char *item;
    size_t commas = 0;

    for (const char *p = text; *p; p++)
        commas += *p == ',' || *p == '\n';
    const char **list = arena_alloc(pb->arena, (commas + 2) * sizeof *list);
    for (const char *at = text; at;) {
        size_t len = playbook_list_item(&at, &item);
        list[n++] = arena_strndup(pb->arena, item, len);
    }
    list[n] = NULL;
    return list;
}

static void resolve_entry(struct playbook *pb, const struct playbook_section *s,
                          struct playbook_entry *e)
{
    struct strbuf text = {0};
    struct strbuf why = {0};

    if (e->raw.len == 0) {
        /* An overlay or --set takes a value back by giving none; in the file itself it is a slip.
         */
        if (e->origin == PLAYBOOK_FROM_FILE)
            playbook_problem_at(pb, s, e, "has no value; without the line it takes its default");
        return;
    }
    if (!resolve_text(pb, e, &text, &why) ||
        !playbook_value_parse(e->spec, strbuf_cstr(&text), &e->num, &why)) {
        bad_value(pb, s, e, strbuf_cstr(&why));
        /* Set all the same, so that it isn't called missing as well. */
        e->text = "";
    } else if (e->spec->type == PLAYBOOK_PATH) {
        e->text = absolute(pb, strbuf_cstr(&text));
    } else {
        e->text = arena_strndup(pb->arena, text.data, text.len);
        if (e->spec->type == PLAYBOOK_LIST)
            e->list = split_list(pb, e->text);
    }
    strbuf_release(&text);
    strbuf_release(&why);
}

static bool has(const struct playbook_section *s, const char *key)
{
    const struct playbook_entry *e = playbook_find_entry(s, key);
    return e && e->text;
}

static void check_required(struct playbook *pb, const struct playbook_section *s)
{
    for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
        if ((k->flags & PLAYBOOK_REQUIRED) == 0 || strcmp(k->kind, s->kind->name) != 0 ||
            has(s, k->key))
            continue;
        if (k->type == PLAYBOOK_ENUM)
            playbook_problem_at(pb, s, NULL, "needs %s, one of %s", k->key, k->values);
        else
            playbook_problem_at(pb, s, NULL, "needs %s, such as %s = %s", k->key, k->key,
                                playbook_example(k));
    }
}

static void check_together(struct playbook *pb, const struct playbook_section *s)
{
    if (strcmp(s->kind->name, "migrations") == 0 && has(s, "directory") && has(s, "command"))
        playbook_problem_at(pb, s, playbook_find_entry(s, "command"),
                            "can't stand beside directory; one of them runs the migrations");
    if (strcmp(s->kind->name, "check") == 0 && !has(s, "sql") && !has(s, "command"))
        playbook_problem_at(pb, s, NULL, "needs sql or command");
}

/* base_dir goes first: the others' paths start there. */
static void resolve_base_dir(struct playbook *pb)
{
    const struct playbook_section *s = playbook_find_section(pb, "cutover", "");
    struct playbook_entry *e = s ? playbook_find_entry(s, "base_dir") : NULL;

    if (!e)
        return;
    resolve_entry(pb, s, e);
    if (e->text && *e->text)
        pb->dir = arena_strndup(pb->arena, e->text, strlen(e->text));
}

void playbook_resolve(struct playbook *pb)
{
    resolve_base_dir(pb);
    for (size_t i = 0; i < pb->nsections; i++) {
        struct playbook_section *s = pb->sections[i];
        for (size_t j = 0; j < s->nentries; j++) {
            if (strcmp(s->entries[j].key, "base_dir") != 0)
                resolve_entry(pb, s, &s->entries[j]);
        }
        if (!s->mistyped) {
            check_required(pb, s);
            check_together(pb, s);
        }
    }
    for (const struct playbook_kind *k = playbook_kinds; k->name; k++) {
        if (!k->required || playbook_find_section(pb, k->name, ""))
            continue;
        playbook_problem(pb, PLAYBOOK_FROM_FILE, pb->last_line, "no section [%s], which needs %s",
                         k->name, strcmp(k->name, "cutover") == 0 ? "name" : "conninfo");
    }
}
