#include "base/secret.h"

#include "base/alloc.h"
#include "base/strbuf.h"

#include <ctype.h>
#include <stdlib.h>
#include <strings.h>

struct secret {
    char *text;
};

struct secret *secret_new(const char *text)
{
    struct secret *s = xmalloc(sizeof *s);
    s->text = xstrdup(text);
    return s;
}

void secret_free(struct secret *s)
{
    if (!s)
        return;
    if (s->text)
        explicit_bzero(s->text, strlen(s->text));
    free(s->text);
    free(s);
}

const char *secret_reveal(const struct secret *s)
{
    return s->text;
}

/* libpq's options with dispchar "*", and those of newer releases; a percent-encoded name may be any
 * of them. */
static bool is_secret_key(const char *key, size_t len)
{
    static const char *const keys[] = {
        "password",         "sslpassword",         "scram_client_key",
        "scram_server_key", "oauth_client_secret", "sslkeylogfile"};
    if (memchr(key, '%', len))
        return true;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strlen(keys[i]) == len && strncasecmp(keys[i], key, len) == 0)
            return true;
    return false;
}

static void mask_parameters(struct strbuf *out, const char *p)
{
    while (*p) {
        size_t len = strcspn(p, "&");
        const char *eq = memchr(p, '=', len);
        if (eq && is_secret_key(p, (size_t) (eq - p))) {
            strbuf_add(out, p, (size_t) (eq - p) + 1);
            strbuf_addstr(out, "***");
        } else {
            strbuf_add(out, p, len);
        }
        p += len;
        if (*p == '&')
            strbuf_addch(out, *p++);
    }
}

static const char *last_at(const char *from, const char *end)
{
    return memrchr(from, '@', (size_t) (end - from));
}

/* A raw '/' or '@' in a password is against the syntax, but it happens: then rather too much is
 * hidden. */
static const char *credentials_end(const char *authority)
{
    const char *at = last_at(authority, authority + strcspn(authority, "/"));
    return at ? at : last_at(authority, authority + strcspn(authority, "?"));
}

static void mask_uri(struct strbuf *out, const char *uri)
{
    const char *authority = strstr(uri, "://") + 3;
    const char *at = credentials_end(authority);
    const char *p = uri;

    if (at) {
        const char *colon = memchr(authority, ':', (size_t) (at - authority));
        if (colon) {
            strbuf_add(out, uri, (size_t) (colon - uri) + 1);
            strbuf_addstr(out, "***");
            p = at;
        }
    }
    const char *query = strchr(at ? at : p, '?');
    if (!query) {
        strbuf_addstr(out, p);
        return;
    }
    strbuf_add(out, p, (size_t) (query - p) + 1);
    mask_parameters(out, query + 1);
}

/* The end of a value as libpq's conninfo_parse() reads it: quoted, or up to white space; '\'
 * escapes. */
static const char *value_end(const char *p)
{
    bool quoted = *p == '\'';
    if (quoted)
        p++;
    while (*p) {
        if (*p == '\\' && p[1])
            p += 2;
        else if (quoted && *p == '\'')
            return p + 1;
        else if (!quoted && isspace((unsigned char) *p))
            return p;
        else
            p++;
    }
    return p;
}

static void mask_keywords(struct strbuf *out, const char *p)
{
    while (*p) {
        if (isspace((unsigned char) *p)) {
            strbuf_addch(out, *p++);
            continue;
        }
        const char *key = p;
        while (*p && *p != '=' && !isspace((unsigned char) *p))
            p++;
        size_t keylen = (size_t) (p - key);
        while (isspace((unsigned char) *p))
            p++;
        if (*p == '=')
            p++;
        while (isspace((unsigned char) *p))
            p++;
        strbuf_add(out, key, (size_t) (p - key));
        const char *end = value_end(p);
        if (is_secret_key(key, keylen))
            strbuf_addstr(out, "***");
        else
            strbuf_add(out, p, (size_t) (end - p));
        p = end;
    }
}

char *secret_mask_conninfo(const char *conninfo)
{
    struct strbuf out = {0};
    if (strncmp(conninfo, "postgres://", 11) == 0 || strncmp(conninfo, "postgresql://", 13) == 0)
        mask_uri(&out, conninfo);
    else
        mask_keywords(&out, conninfo);
    return strbuf_take(&out);
}
