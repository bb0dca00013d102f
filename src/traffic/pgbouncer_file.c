/* pgbouncer_file.c - the file that holds the aliases' lines, and what such a line means. */
#include "private.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FILE_CEILING ((size_t) 16 << 20)

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    return p;
}

/* ---- the right side ---- */

/* "key = value" as PgBouncer reads it: blanks around '=' are fine, quotes are doubled inside. */
static bool next_pair(const char **at, struct strbuf *key, struct strbuf *value)
{
    const char *p = *at;

    strbuf_reset(key);
    strbuf_reset(value);
    while (isalnum((unsigned char) *p) || *p == '_')
        strbuf_addch(key, *p++);
    while (*p == ' ' || *p == '\t')
        p++;
    if (key->len == 0 || *p != '=')
        return false;
    for (p++; *p == ' ' || *p == '\t';)
        p++;
    if (*p == '\'') {
        for (p++; *p && (*p != '\'' || p[1] == '\''); p++) {
            if (*p == '\'')
                p++;
            strbuf_addch(value, *p);
        }
        if (*p != '\'')
            return false;
        p++;
    } else {
        while (*p && *p != ' ' && *p != '\t')
            strbuf_addch(value, *p++);
    }
    while (*p == ' ' || *p == '\t')
        p++;
    *at = p;
    return true;
}

static void take_pair(struct target *out, const char *key, const char *value)
{
    struct {
        const char *key;
        char **field;
    } const fields[] = {{"host", &out->host},
                        {"port", &out->port},
                        {"dbname", &out->dbname},
                        {"pool_mode", &out->pool_mode}};

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(fields[i].key, key) != 0)
            continue;
        free(*fields[i].field);
        *fields[i].field = xstrdup(value);
    }
}

bool target_parse(struct target *out, const char *text, const char *alias, const char **why)
{
    struct strbuf key = {0};
    struct strbuf value = {0};
    const char *p = text;

    *out = (struct target){.host = xstrdup(""), .port = xstrdup("5432"), .dbname = xstrdup(alias)};
    *why = NULL;
    if (strpbrk(text, "\r\n"))
        *why = "has more than one line";
    while (*p == ' ' || *p == '\t')
        p++;
    while (!*why && *p) {
        if (!next_pair(&p, &key, &value))
            *why = "is not of the form host=... port=... dbname=...";
        else if (strcmp(strbuf_cstr(&key), alias) == 0 && strcmp(alias, "host") != 0)
            *why = "begins with the alias: write only what is right of its =";
        else
            take_pair(out, strbuf_cstr(&key), strbuf_cstr(&value));
    }
    strbuf_release(&key);
    strbuf_release(&value);
    if (*why)
        target_release(out);
    return !*why;
}

void target_release(struct target *t)
{
    free(t->host);
    free(t->port);
    free(t->dbname);
    free(t->pool_mode);
    *t = (struct target){0};
}

bool target_same(const struct target *a, const struct target *b)
{
    return strcmp(a->host, b->host) == 0 && strcmp(a->port, b->port) == 0 &&
           strcmp(a->dbname, b->dbname) == 0;
}

char *target_describe(const struct target *t)
{
    return xstrfmt("%s:%s/%s", t->host[0] ? t->host : "(socket)", t->port, t->dbname);
}

/* ---- the file ---- */

struct span {
    size_t at; /* of the value */
    size_t len;
    int count; /* how many lines there are for the alias */
};

/* The left side, quoted or not. Returns what follows it, or NULL when it is another's. */
static const char *match_key(const char *p, const char *end, const char *alias)
{
    bool quoted = p < end && *p == '"';
    const char *want = alias;

    if (!quoted) {
        size_t len = strlen(alias);
        return (size_t) (end - p) >= len && memcmp(p, alias, len) == 0 ? p + len : NULL;
    }
    for (p++; p < end; p++) {
        if (*p == '"' && (p + 1 == end || p[1] != '"'))
            return *want ? NULL : p + 1;
        if (*p == '"')
            p++;
        if (*want != *p)
            return NULL;
        want++;
    }
    return NULL;
}

static void look_at_line(struct span *found, const char *text, const char *p, const char *end,
                         const char *alias)
{
    p = match_key(p, end, alias);
    if (!p)
        return;
    p = skip_blanks(p, end);
    if (p == end || *p != '=')
        return;
    p = skip_blanks(p + 1, end);
    while (end > p && isspace((unsigned char) end[-1]))
        end--;
    found->count++;
    found->at = (size_t) (p - text);
    found->len = (size_t) (end - p);
}

/* Lines count in [databases], and before any section: there an included file usually begins. */
static struct span find_alias(const struct strbuf *file, const char *alias)
{
    static const char databases[] = "[databases]";
    const char *text = strbuf_cstr(file);
    const char *end = text + file->len;
    struct span found = {0};
    bool inside = true;

    for (const char *p = text; p < end;) {
        const char *eol = memchr(p, '\n', (size_t) (end - p));
        const char *stop = eol ? eol : end;
        p = skip_blanks(p, stop);
        if (p < stop && *p == '[')
            inside = (size_t) (stop - p) >= sizeof databases - 1 &&
                     strncasecmp(p, databases, sizeof databases - 1) == 0;
        else if (inside)
            look_at_line(&found, text, p, stop, alias);
        p = eol ? eol + 1 : end;
    }
    return found;
}

static bool find_in_file(const char *path, const char *alias, struct strbuf *text,
                         struct span *found, struct error *err)
{
    if (!file_read(path, text, FILE_CEILING, err))
        return false;
    *found = find_alias(text, alias);
    if (found->count == 1)
        return true;
    if (found->count > 1)
        error_set(err, ERR_TRAFFIC, "\"%s\" has %d lines for alias \"%s\"", path, found->count,
                  alias);
    else
        error_set(err, ERR_TRAFFIC, "\"%s\" has no line for alias \"%s\"", path, alias);
    return error_hint(err, "The file must hold one line \"%s = host=... port=... dbname=...\".",
                      alias);
}

bool alias_read(const char *path, const char *alias, char **value, struct error *err)
{
    struct strbuf text = {0};
    struct span found;
    bool ok = find_in_file(path, alias, &text, &found, err);

    if (ok)
        *value = xstrndup(text.data + found.at, found.len);
    strbuf_release(&text);
    return ok;
}

bool alias_replaced(const char *path, const char *alias, const char *value, struct strbuf *old,
                    struct strbuf *out, struct error *err)
{
    struct span found;

    if (!find_in_file(path, alias, old, &found, err))
        return false;
    strbuf_add(out, old->data, found.at);
    strbuf_addstr(out, value);
    strbuf_add(out, old->data + found.at + found.len, old->len - found.at - found.len);
    /* without its line PgBouncer would drop the alias and its clients */
    struct span again = find_alias(out, alias);
    if (again.count != 1 || again.len != strlen(value))
        BUG("the new text of \"%s\" lost its line for \"%s\"", path, alias);
    return true;
}
