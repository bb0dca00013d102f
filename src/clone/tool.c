/* tool.c - PostgreSQL's own programs and the environment that they run in. */
#include "private.h"

#include "base/alloc.h"
#include "sys/process.h"

#include <stdlib.h>

static bool is_variable(const char *entry, const char *name)
{
    size_t len = strlen(name);
    return strncmp(entry, name, len) == 0 && entry[len] == '=';
}

bool tool_find(struct tool *t, const char *name, const char *worker, const char *settings,
               const struct archive_options *o, struct error *err)
{
    const char *given = getenv("PGOPTIONS");
    size_t n = 0;
    size_t cap = 0;

    if (!process_find_pg_tool(name, o->server_version / 10000, &t->path, err) ||
        !pg_child_env(o->conninfo, o->dbname, &t->connection, err))
        return false;
    for (size_t i = 0; t->connection[i]; i++) {
        if (is_variable(t->connection[i], "PGOPTIONS"))
            given = t->connection[i] + strlen("PGOPTIONS=");
        else if (!is_variable(t->connection[i], "PGAPPNAME"))
            *VEC_ADD(t->env, n, cap) = t->connection[i];
    }
    t->options = xstrfmt("PGOPTIONS=%s%s-c default_transaction_read_only=off -c array_nulls=on%s%s",
                         given ? given : "", given && *given ? " " : "", settings,
                         o->server_version >= 140000 ? " -c idle_session_timeout=0" : "");
    t->application = xstrfmt("PGAPPNAME=pgcutover/%s/%s", o->run ? o->run : "-", worker);
    t->jobs = xstrfmt("--jobs=%d", o->jobs > 0 ? o->jobs : 1);
    *VEC_ADD(t->env, n, cap) = t->options;
    *VEC_ADD(t->env, n, cap) = t->application;
    *VEC_ADD(t->env, n, cap) = "LC_ALL=C"; /* their messages are looked into */
    *VEC_ADD(t->env, n, cap) = NULL;
    return true;
}

void tool_release(struct tool *t)
{
    free(t->path);
    pg_free_env(t->connection);
    free(t->env);
    free(t->options);
    free(t->application);
    free(t->jobs);
}

bool tool_failed(struct error *err)
{
    if (err->code == ERR_CHILD && strstr(err->detail, "No space left on device")) {
        err->code = ERR_FULL;
        return error_hint(err,
                          "Free space where the archive and the server's data are, then resume.");
    }
    return false;
}
