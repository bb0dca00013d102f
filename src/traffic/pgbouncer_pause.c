/*
 * pgbouncer_pause.c - PAUSE, and the proof that it holds.
 *
 * PgBouncer's answer alone proves nothing. After any WAIT_CLOSE on the alias every later PAUSE is
 * answered at once, with the tag WAIT_CLOSE, while transactions are open (1.18 and later). And
 * SHOW DATABASES says paused=1 while PAUSE still waits. So a pause counts when PgBouncer answered
 * with the tag PAUSE and SHOW DATABASES says paused=1 and current_connections=0. Without that tag
 * SHOW POOLS must say, too, that the alias has no server connection in any state.
 *
 * A client that dies while its PAUSE waits leaves the pause behind: it is taken back by RESUME from
 * the second console, after which the first one never gets its answer and is closed.
 *
 * server_login_retry: PAUSE closes server connections that are still logging in and counts each as
 * a failed login, after which the pool opens none for server_login_retry seconds. So it is 0 while
 * traffic is held, and goes back only when no pool can be in that state: SET right behind RESUME
 * would bring the outage back.
 */
#include "private.h"

#include "base/alloc.h"
#include "sys/stop.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 3 /* between looks at a pause that was answered and isn't quiet yet */
#define LOOK_PENDING_MS 50
#define UNDO_MS 5000
#define NAMING_MS 300
#define STOP_NEW_MS 1000

/* Always quoted: PgBouncer takes its own and SQL's names so. */
static char *command_for(const char *verb, const char *alias)
{
    struct strbuf sb = {0};

    strbuf_addf(&sb, "%s \"", verb);
    for (const char *p = alias; *p; p++) {
        if (*p == '"')
            strbuf_addch(&sb, '"');
        strbuf_addch(&sb, *p);
    }
    strbuf_addch(&sb, '"');
    return strbuf_take(&sb);
}

struct patience bouncer_how(const struct pgbouncer *b, bool patient, bool stoppable)
{
    return (struct patience){
        .deadline_us = clock_us() + b->timeout_us, .patient = patient, .stoppable = stoppable};
}

static bool is_paused(struct pooler *p, const char *alias, const struct patience *how, bool *paused,
                      struct error *err)
{
    struct alias_state state = {0};
    bool ok = bouncer_show_alias(p->second, how, alias, &state, err);

    *paused = state.paused;
    alias_state_release(&state);
    return ok;
}

/* ---- taking it back ---- */

static bool still_held(const struct pooler *p, const char *alias, struct error *err)
{
    error_detail(err, "\"%s\" may still be paused on PgBouncer at %s", alias,
                 console_where(p->second));
    return error_hint(err, "Once it answers again, give RESUME \"%s\"; in its admin console.",
                      alias);
}

bool pooler_resume(struct pooler *p, const char *alias, const struct patience *how,
                   struct error *err)
{
    char *command = command_for("RESUME", alias);
    bool ok = console_command(p->second, how, command, NULL, err);

    free(command);
    if (!ok) {
        /* "database app is not paused" is as good */
        struct error ignored = {0};
        bool paused;
        ok = is_paused(p, alias, how, &paused, &ignored) && !paused;
    }
    return ok || still_held(p, alias, err);
}

bool bouncer_resume(struct pgbouncer *b, const char *alias, struct error *err)
{
    struct patience how = bouncer_how(b, true, false);
    bool ok = true;

    for (size_t i = 0; i < b->npoolers; i++) {
        struct error why = {0};
        if (pooler_resume(&b->poolers[i], alias, &how, &why))
            continue;
        if (ok)
            *err = why;
        ok = false;
    }
    return ok;
}

/* err tells why the pause failed, and from now on also what could not be taken back. */
static void take_back(struct pgbouncer *b, const char *alias, enum pause_undo undo,
                      struct error *err)
{
    struct patience how = {.deadline_us = clock_in_ms(UNDO_MS), .patient = true};

    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];
        struct error why = {0};

        if ((undo == PAUSE_UNDO_ALL || !p->was_paused) && !pooler_resume(p, alias, &how, &why)) {
            event_warn("traffic %s: %s", traffic_name(b->t), why.message);
            still_held(p, alias, err);
        }
        if (p->phase == PAUSE_ASKED)
            console_disconnect(p->main);
    }
}

static bool over_budget(struct pgbouncer *b, const char *alias, struct error *err)
{
    struct patience how = {.deadline_us = clock_in_ms(NAMING_MS)};
    struct strbuf names = {0};
    size_t n = 0;

    for (size_t i = 0; i < b->npoolers; i++)
        if (b->poolers[i].phase != PAUSE_PROVED)
            n += bouncer_name_clients(b->poolers[i].second, &how, alias, &names);
    if (n == 0) /* a pooler that didn't answer */
        strbuf_addstr(&names, err->message);
    const char *list = strbuf_cstr(&names);
    error_set(err, ERR_BUDGET,
              "\"%s\" could not be paused in time: %zu server connection%s still in use%s%.*s",
              alias, n, n == 1 ? " is" : "s are", *list ? ": " : "", (int) strcspn(list, "\n"),
              list);
    error_detail(err, "%s", list);
    error_hint(err, "End these transactions, or try again when they are over.");
    strbuf_release(&names);
    return false;
}

/* ---- pausing ---- */

static bool ask(struct pooler *p, const char *command, const struct patience *how,
                struct error *err)
{
    p->phase = PAUSE_ASKED;
    p->trusted = false;
    return console_start(p->main, how, command, err);
}

static bool has_servers(struct pooler *p, const char *alias, const struct patience *how, bool *has,
                        struct error *err)
{
    struct pool_sums sums;

    if (!bouncer_show_pools(p->second, how, alias, &sums, err))
        return false;
    *has = sums.servers + sums.logins > 0;
    return true;
}

/* Looks whether the pause holds; one that is gone (a restart, somebody's RESUME) is asked for anew.
 */
static bool look(struct pooler *p, const char *alias, const char *command,
                 const struct patience *how, struct error *err)
{
    struct alias_state state = {0};
    bool busy;

    if (!bouncer_show_alias(p->second, how, alias, &state, err))
        return false;
    bool paused = state.paused;
    busy = state.connections > 0;
    alias_state_release(&state);
    if (!paused)
        return p->phase == PAUSE_ASKED || ask(p, command, how, err);
    if (!busy && !p->trusted && !has_servers(p, alias, how, &busy, err))
        return false;
    if (busy && p->phase == PAUSE_PROVED)
        p->phase = PAUSE_ANSWERED;
    if (busy)
        return true;
    /* answered only when every paused alias is quiet, not just ours */
    if (p->phase == PAUSE_ASKED)
        console_disconnect(p->main);
    p->phase = PAUSE_PROVED;
    return true;
}

static bool step(struct pooler *p, const char *alias, const char *command, bool look_anyway,
                 const struct patience *how, struct error *err)
{
    PGresult *res = NULL;
    bool ok = true;

    if (p->phase == PAUSE_PROVED)
        return true;
    if (p->phase == PAUSE_ASKED) {
        enum answer answer = console_take(p->main, &res);
        if (answer == ANSWER_LOST)
            return ask(p, command, how, err);
        if (answer == ANSWER_READY) {
            p->phase = PAUSE_ANSWERED;
            ok = console_accept(p->main, command, res, err);
            p->trusted = ok && strcmp(PQcmdStatus(res), "PAUSE") == 0;
        }
        PQclear(res);
    }
    if (ok && (p->phase == PAUSE_ANSWERED || look_anyway))
        ok = look(p, alias, command, how, err);
    return ok;
}

static bool all_proved(struct pgbouncer *b)
{
    for (size_t i = 0; i < b->npoolers; i++)
        if (b->poolers[i].phase != PAUSE_PROVED)
            return false;
    return true;
}

static void wait_for_answers(struct pgbouncer *b, int64_t until_us)
{
    struct pollfd *fds = xcalloc(b->npoolers, sizeof *fds);
    int ms = LOOK_PENDING_MS;

    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];
        fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
        if (p->phase == PAUSE_ASKED)
            fds[i].fd = console_socket(p->main);
        if (p->phase == PAUSE_ANSWERED)
            ms = LOOK_MS;
    }
    int64_t slice = clock_in_ms(ms);
    poll(fds, (nfds_t) b->npoolers, clock_poll_ms(slice < until_us ? slice : until_us));
    free(fds);
}

/* A pooler that was proved first may have been restarted since: all are looked at once more. */
static bool look_again(struct pgbouncer *b, const char *alias, const char *command,
                       const struct patience *how, struct error *err)
{
    for (size_t i = 0; b->npoolers > 1 && i < b->npoolers; i++)
        if (!look(&b->poolers[i], alias, command, how, err))
            return false;
    return true;
}

static bool until_proved(struct pgbouncer *b, const char *alias, const char *command,
                         const struct patience *how, struct error *err)
{
    int64_t next_look = clock_in_ms(LOOK_PENDING_MS);

    for (;;) {
        bool due = clock_passed(next_look);
        for (size_t i = 0; i < b->npoolers; i++)
            if (!step(&b->poolers[i], alias, command, due, how, err))
                return false;
        if (due)
            next_look = clock_in_ms(LOOK_PENDING_MS);
        if (all_proved(b) && !look_again(b, alias, command, how, err))
            return false;
        if (all_proved(b))
            return true;
        if (!stop_check(err) || clock_passed(how->deadline_us))
            return false;
        wait_for_answers(b, how->deadline_us);
    }
}

/* Both consoles first: a pause that can't be taken back isn't begun. */
static bool get_ready(struct pgbouncer *b, const char *alias, const struct patience *how,
                      struct error *err)
{
    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];

        p->phase = PAUSE_PROVED; /* nothing asked yet */
        if (!console_connect(p->main, how, err) || !is_paused(p, alias, how, &p->was_paused, err))
            return false;
    }
    return true;
}

bool bouncer_pause(struct pgbouncer *b, const char *alias, int64_t deadline_us,
                   enum pause_undo undo, struct error *err)
{
    struct patience how = {.deadline_us = deadline_us, .patient = true, .stoppable = true};
    char *command = command_for("PAUSE", alias);
    bool ok = get_ready(b, alias, &how, err);

    if (ok) {
        for (size_t i = 0; ok && i < b->npoolers; i++)
            ok = ask(&b->poolers[i], command, &how, err);
        ok = ok && until_proved(b, alias, command, &how, err);
        if (!ok && err->code != ERR_STOPPED && clock_passed(deadline_us))
            over_budget(b, alias, err);
        if (!ok)
            take_back(b, alias, undo, err);
    }
    free(command);
    return ok;
}

bool pooler_stop_new(struct pooler *p, const char *alias, const struct patience *how,
                     struct error *err)
{
    struct patience brief = *how;
    struct error why = {0};
    char *command;
    bool paused = false;

    if (!is_paused(p, alias, how, &paused, err) || paused)
        return paused;
    brief.deadline_us = clock_in_ms(STOP_NEW_MS);
    command = command_for("PAUSE", alias);
    /* it waits for open transactions, and we don't: the pause stays */
    bool ok = console_command(p->main, &brief, command, NULL, &why) ||
              is_paused(p, alias, how, &paused, err);
    free(command);
    if (ok && why.code != ERR_NONE && !paused) {
        *err = why;
        ok = false;
    }
    return ok;
}

bool bouncer_stop_new(struct pgbouncer *b, const char *alias, struct error *err)
{
    struct patience how = bouncer_how(b, true, false);

    for (size_t i = 0; i < b->npoolers; i++)
        if (!pooler_stop_new(&b->poolers[i], alias, &how, err))
            return false;
    return true;
}

/* ---- server_login_retry ---- */

static bool set_retry(struct pooler *p, const char *value, const struct patience *how,
                      struct error *err)
{
    char *command = xstrfmt("SET server_login_retry=%s", value);
    bool ok = console_command(p->second, how, command, NULL, err);
    free(command);
    return ok;
}

static bool is_zero(const char *value)
{
    return strtod(value, NULL) <= 0;
}

/* 0 is what a run of ours leaves when it is killed: then what the note says is right. */
bool bouncer_note_retry(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                        struct error *err)
{
    char *value = NULL;

    (void) b;
    if (!bouncer_show_config(p->second, how, "server_login_retry", &value, err))
        return false;
    if (p->login_retry && is_zero(value)) {
        free(value);
        return true;
    }
    free(p->login_retry);
    p->login_retry = value;
    return true;
}

bool bouncer_zero_retry(struct pgbouncer *b, const struct patience *how, struct error *err)
{
    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];
        if (!p->login_retry && !bouncer_note_retry(b, p, how, err))
            return false;
        if (!set_retry(p, "0", how, err))
            return false;
    }
    return true;
}

/* May a pool of alias still take a login that PAUSE cut off for a failed one? */
static bool may_be_stuck(struct pooler *p, const char *alias, const struct patience *how,
                         bool *stuck, struct error *err)
{
    struct alias_state state = {0};
    struct pool_sums sums = {0};

    if (!alias || *stuck)
        return true;
    if (!bouncer_show_alias(p->second, how, alias, &state, err))
        return false;
    bool paused = state.paused;
    bool wants = state.min_pool_size > 0;
    alias_state_release(&state);
    if (paused)
        return true;
    if (!bouncer_show_pools(p->second, how, alias, &sums, err))
        return false;
    *stuck = sums.stuck || (wants && sums.pools > 0 && sums.servers == 0);
    return true;
}

static bool restore_one(struct pgbouncer *b, struct pooler *p, int64_t until_us, bool anyway,
                        struct error *err)
{
    struct patience how = bouncer_how(b, false, false);
    bool stuck = true;

    if (!p->login_retry || is_zero(p->login_retry))
        return true;
    for (;;) {
        stuck = false;
        if (!may_be_stuck(p, b->database, &how, &stuck, err) ||
            !may_be_stuck(p, b->new_database, &how, &stuck, err))
            return false;
        if (!stuck || clock_passed(until_us))
            break;
        clock_sleep_ms(LOOK_MS);
    }
    return (stuck && !anyway) || set_retry(p, p->login_retry, &how, err);
}

bool bouncer_restore_retry(struct pgbouncer *b, int64_t wait_ms, bool anyway, struct error *err)
{
    int64_t until = clock_in_ms(wait_ms);
    bool ok = true;

    for (size_t i = 0; i < b->npoolers; i++) {
        struct error why = {0};
        if (restore_one(b, &b->poolers[i], until, anyway, &why))
            continue;
        if (ok)
            *err = why;
        ok = false;
    }
    return ok;
}
