/*
 * pgbouncer_prepare.c - everything that would make a verb fail in the pause, found before it,
 * without an effect on clients of the serving alias.
 *
 * What can't be known beforehand: whether the next RELOAD would be refused because of somebody's
 * edit elsewhere in the configuration. RELOAD answers OK then; switch_to reads back and undoes.
 */
#include "private.h"

#include "base/alloc.h"
#include "pg/front.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WARM_TIMEOUT_S 5

/* May look, and may act: the setting gets the value that it has. */
static bool check_rights(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                         struct error *err)
{
    char *now = NULL;
    char *command;
    bool ok;

    if (!console_command(p->second, how, "SHOW VERSION", NULL, err) ||
        !console_connect(p->main, how, err) || !bouncer_note_retry(b, p, how, err) ||
        !bouncer_show_config(p->second, how, "server_login_retry", &now, err))
        return false;
    command = xstrfmt("SET server_login_retry=%s", now);
    ok = console_command(p->second, how, command, NULL, err);
    free(command);
    free(now);
    return ok;
}

static bool refuse_session(const struct pooler *p, const char *alias, const char *where,
                           struct error *err)
{
    error_set(err, ERR_TRAFFIC,
              "session pooling can't be held: pool_mode of \"%s\" on PgBouncer at %s is session%s",
              alias, console_where(p->second), where);
    return error_hint(err, "PAUSE would wait for clients to disconnect. Set pool_mode=transaction "
                           "for this alias, or use the command driver.");
}

static bool check_pool_mode(struct pgbouncer *b, struct pooler *p, const char *alias,
                            const char *own, const struct patience *how, struct error *err)
{
    const struct playbook_section *s = b->t->section;
    const char *wanted = playbook_str(s, "pool_mode");
    struct pool_sums sums = {0};
    char *general = NULL;
    const char *mode;
    bool ok;

    if (!bouncer_show_config(p->second, how, "pool_mode", &general, err))
        return false;
    mode = own ? own : general;
    if (strcmp(mode, "session") == 0) {
        ok = refuse_session(p, alias, "", err);
    } else if (playbook_given(s, "pool_mode") && strcmp(mode, wanted) != 0) {
        ok = error_set(err, ERR_TRAFFIC, "pool_mode of \"%s\" on PgBouncer at %s is %s, not %s",
                       alias, console_where(p->second), mode, wanted);
    } else {
        /* a user's pool_mode goes before the alias' */
        ok = bouncer_show_pools(p->second, how, alias, &sums, err);
        if (ok && sums.session)
            ok = refuse_session(p, alias, " for a user of it", err);
    }
    free(general);
    return ok;
}

static bool check_alias(struct pgbouncer *b, struct pooler *p, const char *alias,
                        const struct patience *how, struct error *err)
{
    struct alias_state state = {0};
    bool ok;

    if (!bouncer_show_alias(p->second, how, alias, &state, err))
        return false;
    ok = check_pool_mode(b, p, alias, state.target.pool_mode, how, err);
    if (ok && state.disabled)
        ok = error_set(err, ERR_TRAFFIC, "\"%s\" is disabled on PgBouncer at %s", alias,
                       console_where(p->second));
    alias_state_release(&state);
    return ok;
}

static bool check_wait_timeout(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                               struct error *err)
{
    double pause = (double) b->t->context.pause_us / 1e6;
    char *text = NULL;
    double limit;

    if (!bouncer_show_config(p->second, how, "query_wait_timeout", &text, err))
        return false;
    limit = strtod(text, NULL);
    free(text);
    if (limit <= 0 || limit > pause)
        return true;
    error_set(err, ERR_TRAFFIC,
              "query_wait_timeout on PgBouncer at %s is %g s, and the pause may take %g s",
              console_where(p->second), limit, pause);
    return error_hint(err,
                      "Clients that wait longer are disconnected: raise query_wait_timeout, or "
                      "lower write_pause.");
}

static bool check_poolers(struct pgbouncer *b, struct error *err)
{
    struct patience how = bouncer_how(b, false, true);

    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];
        if (!check_rights(b, p, &how, err) || !check_alias(b, p, b->database, &how, err) ||
            (bouncer_two(b) && !check_alias(b, p, b->new_database, &how, err)) ||
            !check_wait_timeout(b, p, &how, err))
            return false;
    }
    return true;
}

/* ---- one alias ---- */

static bool check_writable(const char *path, struct error *err)
{
    char *resolved = realpath(path, NULL);
    char *dir = xstrdup(resolved ? resolved : path);
    char *slash = strrchr(dir, '/');
    bool ok;

    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    ok = access(slash ? dir : ".", W_OK | X_OK) == 0;
    if (!ok) {
        error_set(err, ERR_TRAFFIC, "the directory of \"%s\" is not writable for us", path);
        error_hint(err,
                   "The file is replaced by renaming a new one over it: run as a user who may "
                   "write in %s.",
                   slash ? dir : "it");
    }
    free(dir);
    free(resolved);
    return ok;
}

static bool check_file(struct pgbouncer *b, struct error *err)
{
    struct patience how = bouncer_how(b, false, true);
    enum traffic_side running, file;
    bool held;

    if (!bouncer_file_side(b, b->database, &file, err) || !check_writable(b->file, err) ||
        !bouncer_sides(b, &how, &running, &held, err))
        return false;
    if (file != TRAFFIC_UNKNOWN && running == file)
        return true;
    error_set(err, ERR_TRAFFIC, "%s",
              b->said ? b->said : "the alias points at neither blue nor green");
    return error_hint(err,
                      "blue and green in [traffic %s] must be what stands in \"%s\" while that "
                      "side serves, and PgBouncer must have loaded it.",
                      traffic_name(b->t), b->file);
}

/* ---- two aliases ---- */

static bool note_new_pause(struct pgbouncer *b, const struct patience *how, bool *now,
                           struct error *err)
{
    bool paused = true;

    for (size_t i = 0; i < b->npoolers; i++) {
        struct alias_state state = {0};
        if (!bouncer_show_alias(b->poolers[i].second, how, b->new_database, &state, err))
            return false;
        paused = paused && state.paused;
        alias_state_release(&state);
    }
    if (b->new_was_paused < 0)
        b->new_was_paused = paused;
    *now = paused;
    return true;
}

/* PgBouncer lets a client in only once it has logged in to the alias' server and learnt its
 * parameters. On an alias that is paused before anybody used it, the new version's connections
 * would hang in their login until the switch. */
static bool warm_new(struct pgbouncer *b, bool paused, struct error *err)
{
    const char *door = playbook_str(b->t->section, "new_front");
    uint64_t id;

    if (paused || !door)
        return true;
    if (front_system_id(door, WARM_TIMEOUT_S, &id, err))
        return true;
    return error_push(err, "new_front");
}

static bool hold_new(struct pgbouncer *b, struct error *err)
{
    struct patience how = bouncer_how(b, false, true);
    enum traffic_side side;
    bool held, paused = false;

    if (!bouncer_sides(b, &how, &side, &held, err))
        return false;
    if (side == TRAFFIC_GREEN) /* on the way back: nothing to hold beforehand */
        return true;
    if (b->served == TRAFFIC_GREEN || b->noted == TRAFFIC_GREEN) {
        error_set(err, ERR_TRAFFIC, "green served last, but \"%s\" isn't held any more",
                  b->database);
        return error_hint(err,
                          "PgBouncer was restarted, most likely, and forgot its PAUSE. Give "
                          "PAUSE \"%s\"; in its admin console.",
                          b->database);
    }
    if (held && side == TRAFFIC_UNKNOWN) {
        error_set(err, ERR_TRAFFIC, "both \"%s\" and \"%s\" are held", b->database,
                  b->new_database);
        return error_hint(err, "RESUME the one whose side serves, or let `pgcutover resume` or "
                               "`abort` do it.");
    }
    if (!note_new_pause(b, &how, &paused, err) || !note_save(b, err) || !warm_new(b, paused, err))
        return false;
    if (bouncer_pause(b, b->new_database, how.deadline_us, PAUSE_UNDO_OURS, err))
        return true;
    if (err->code == ERR_BUDGET) { /* no pause of anybody's was overrun here */
        err->code = ERR_TRAFFIC;
        error_hint(err, "Nothing may use \"%s\" before the switch: it is the new version's.",
                   b->new_database);
    }
    return false;
}

static bool check_two_targets(struct pgbouncer *b, struct error *err)
{
    struct patience how = bouncer_how(b, false, true);

    return bouncer_points_at(b, &how, b->database, TRAFFIC_BLUE, err) &&
           bouncer_points_at(b, &how, b->new_database, TRAFFIC_GREEN, err);
}

bool bouncer_check(struct traffic *t, struct error *err)
{
    struct pgbouncer *b = t->state;

    if (b->lock_fd < 0)
        note_load(b);
    return check_poolers(b, err) &&
           (bouncer_two(b) ? check_two_targets(b, err) : check_file(b, err));
}

bool bouncer_prepare(struct traffic *t, struct error *err)
{
    struct pgbouncer *b = t->state;

    if (!bouncer_check(t, err) || !note_lock(b, err))
        return false;
    return (!bouncer_two(b) || hold_new(b, err)) && note_save(b, err);
}
