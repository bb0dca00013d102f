/* conninfo.c - connection strings: what libpq makes of them, without connecting. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

const char *conninfo_get(const PQconninfoOption *options, const char *keyword)
{
    for (const PQconninfoOption *o = options; o && o->keyword; o++)
        if (strcmp(o->keyword, keyword) == 0)
            return o->val && o->val[0] ? o->val : NULL;
    return NULL;
}

/* libpq's message quotes pieces of the string, and a piece may be a password with a space in it. */
static bool bad_conninfo(const char *conninfo, char *libpq_message, struct error *err)
{
    if (libpq_message && !strstr(conninfo, "password") && !strstr(conninfo, "://")) {
        size_t len = strcspn(libpq_message, "\n");
        error_set(err, ERR_CONNECT, "bad connection string: %.*s", (int) len, libpq_message);
    } else {
        error_set(err, ERR_CONNECT, "bad connection string");
    }
    PQfreemem(libpq_message);
    return error_hint(err,
                      "Write it as keyword=value pairs, values with spaces in single quotes, or "
                      "as a postgresql:// URI.");
}

PQconninfoOption *conninfo_parse(const char *conninfo, struct error *err)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo ? conninfo : "", &message);

    if (!options) {
        bad_conninfo(conninfo ? conninfo : "", message, err);
        return NULL;
    }
    PQfreemem(message);
    return options;
}

/*
 * libpq reads service files only on the way to a connection. So it is started on the way with one
 * value that it must refuse before it opens a socket, and asked what it had understood until then.
 */
static PQconninfoOption *resolve_breaking(const PQconninfoOption *given, const char *dbname,
                                          const char *break_keyword)
{
    const char *keywords[80];
    const char *values[80];
    size_t n = 0;
    PGconn *conn;
    PQconninfoOption *resolved;

    for (const PQconninfoOption *o = given; o->keyword && n < 76; o++) {
        if (!o->val || strcmp(o->keyword, break_keyword) == 0 ||
            (dbname && strcmp(o->keyword, "dbname") == 0))
            continue;
        keywords[n] = o->keyword;
        values[n++] = o->val;
    }
    if (dbname) {
        keywords[n] = "dbname";
        values[n++] = dbname;
    }
    keywords[n] = break_keyword;
    values[n++] = "(none)";
    keywords[n] = NULL;
    values[n] = NULL;
    conn = PQconnectStartParams(keywords, values, 0);
    resolved = conn ? PQconninfo(conn) : NULL;
    PQfinish(conn);
    return resolved;
}

static void set_option(PQconninfoOption *options, const char *keyword, const char *value)
{
    for (PQconninfoOption *o = options; o->keyword; o++) {
        if (strcmp(o->keyword, keyword) != 0)
            continue;
        PQfreemem(o->val);
        o->val = value ? strdup(value) : NULL;
    }
}

PQconninfoOption *conninfo_resolve(const char *conninfo, const char *dbname, struct error *err)
{
    PQconninfoOption *given = conninfo_parse(conninfo, err);
    PQconninfoOption *resolved, *second;

    if (!given)
        return NULL;
    resolved = resolve_breaking(given, dbname, "target_session_attrs");
    second = resolve_breaking(given, dbname, "gssencmode");
    PQconninfoFree(given);
    if (!resolved || !second) {
        PQconninfoFree(resolved);
        PQconninfoFree(second);
        error_set(err, ERR_CONNECT, "libpq could not read the connection string");
        return NULL;
    }
    set_option(resolved, "target_session_attrs", conninfo_get(second, "target_session_attrs"));
    PQconninfoFree(second);
    return resolved;
}

static bool environment_differs(const PQconninfoOption *resolved)
{
    PQconninfoOption *defaults = PQconndefaults();
    bool differs = false;

    for (const PQconninfoOption *o = resolved; o->keyword && !differs; o++) {
        const char *value = conninfo_get(defaults, o->keyword);
        if (o->envvar && value && strcmp(value, o->val ? o->val : "") != 0)
            differs = true;
    }
    PQconninfoFree(defaults);
    return differs;
}

static bool has_environment(const PQconninfoOption *o)
{
    /* The service's values are resolved already, and in a child a service would win over the
     * variables. */
    return o->envvar && o->envvar[0] && o->val && o->val[0] && strcmp(o->keyword, "service") != 0 &&
           strcmp(o->keyword, "replication") != 0 &&
           strcmp(o->keyword, "fallback_application_name") != 0;
}

bool pg_child_env(const char *conninfo, const char *dbname, char ***env, struct error *err)
{
    PQconninfoOption *resolved = conninfo_resolve(conninfo, dbname, err);
    size_t n = 0;

    if (!resolved)
        return false;
    if (getenv("PGSERVICE") && environment_differs(resolved)) {
        PQconninfoFree(resolved);
        error_set(err, ERR_CONNECT,
                  "PGSERVICE in the environment contradicts the connection string");
        return error_hint(err,
                          "Unset PGSERVICE, and write service=NAME into the connection string.");
    }
    for (const PQconninfoOption *o = resolved; o->keyword; o++)
        n += has_environment(o) ? 1 : 0;
    *env = xcalloc(n + 1, sizeof **env);
    n = 0;
    for (const PQconninfoOption *o = resolved; o->keyword; o++)
        if (has_environment(o))
            (*env)[n++] = xstrfmt("%s=%s", o->envvar, o->val);
    PQconninfoFree(resolved);
    return true;
}

void pg_free_env(char **env)
{
    if (!env)
        return;
    for (size_t i = 0; env[i]; i++) {
        explicit_bzero(env[i], strlen(env[i]));
        free(env[i]);
    }
    free(env);
}

bool pg_conninfo_dbname(const char *conninfo, char **dbname, struct error *err)
{
    PQconninfoOption *resolved = conninfo_resolve(conninfo, NULL, err);
    const char *name;

    if (!resolved)
        return false;
    name = conninfo_get(resolved, "dbname");
    if (!name)
        name = conninfo_get(resolved, "user");
    *dbname = xstrdup(name ? name : "");
    PQconninfoFree(resolved);
    return true;
}

static char *describe(const PQconninfoOption *o)
{
    const char *host = conninfo_get(o, "host");
    const char *port = conninfo_get(o, "port");
    const char *name = conninfo_get(o, "dbname");

    if (!host)
        host = conninfo_get(o, "hostaddr");
    if (!name)
        name = conninfo_get(o, "user");
    return xstrfmt("%s:%s/%s", host ? host : "localhost", port ? port : "5432", name ? name : "");
}

char *pg_conninfo_describe(const char *conninfo)
{
    struct error ignored = {0};
    PQconninfoOption *resolved = conninfo_resolve(conninfo, NULL, &ignored);
    char *text = resolved ? describe(resolved) : xstrdup("(bad connection string)");

    PQconninfoFree(resolved);
    return text;
}
