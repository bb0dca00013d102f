/* gate.c - what happens around a step: hooks, checks, and the gate where a person answers. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/human.h"
#include "pg/slot.h"
#include "steps/commands.h"
#include "steps/pause.h"
#include "steps/steps.h"
#include "steps/tail.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEFAULT_GATE "hold"
#define GATE_TICK_MS 100
#define REMIND_US 60000000

/* ---- checks and hooks ---- */

static bool listed(const char *const *list, const char *word)
{
    for (size_t i = 0; list && list[i]; i++)
        if (strcmp(list[i], word) == 0)
            return true;
    return false;
}

static bool check_sql(struct cutover *c, const struct playbook_section *s, struct error *err)
{
    struct side *side = strcmp(playbook_str(s, "side"), "blue") == 0 ? &c->blue : &c->green;
    const char *expect = playbook_str(s, "expect");
    struct pg *pg = NULL;
    char *got = NULL;
    bool ok = side_open(c, side, PG_MIGRATE, "check", &pg, err);

    if (ok) {
        pg_set_deadline(pg, clock_us() + playbook_us(s, "timeout"));
        ok = pg_exec(pg, "SET default_transaction_read_only = on", err) &&
             pg_value(pg, &got, playbook_str(s, "sql"), 0, NULL, err);
    }
    if (ok && expect && strcmp(got, expect) != 0)
        ok = error_set(err, ERR_NOGO, "answered \"%s\", expected \"%s\"", got, expect);
    free(got);
    pg_close(pg);
    return ok;
}

static bool run_checks(struct cutover *c, const char *when, struct error *err)
{
    for (size_t i = 0; i < playbook_count(c->pb, "check"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "check", i);
        bool ok;

        if (!listed(playbook_list(s, "when"), when))
            continue;
        ok = playbook_str(s, "sql") ? check_sql(c, s, err)
                                    : command_run(c, s, "command", "green", err);
        if (!ok) {
            err->code = err->code == ERR_STOPPED ? ERR_STOPPED : ERR_NOGO;
            return error_push(err, "[check %s] %s", playbook_section_name(s), when);
        }
        event_info("check %s passed", playbook_section_name(s));
    }
    return true;
}

static bool run_hooks(struct cutover *c, const char *when, struct error *err)
{
    for (size_t i = 0; i < playbook_count(c->pb, "hook"); i++) {
        const struct playbook_section *s = playbook_at(c->pb, "hook", i);
        struct error why = {0};

        if (strcmp(playbook_section_name(s), when) != 0 ||
            command_run(c, s, "command", "blue", &why))
            continue;
        if (strcmp(playbook_str(s, "on_failure"), "stop") == 0) {
            *err = why;
            return error_push(err, "[hook %s]", when);
        }
        event_warn("[hook %s] failed: %s", when, why.message);
    }
    return true;
}

/* ---- the gate ---- */

/* "02:00-04:00", by this machine's clock; may go past midnight. The playbook checked its form. */
static bool in_window(const char *window)
{
    int from_h, from_m, to_h, to_m;
    time_t now = time(NULL);
    struct tm tm;

    if (!window || sscanf(window, "%d:%d-%d:%d", &from_h, &from_m, &to_h, &to_m) != 4)
        return true;
    localtime_r(&now, &tm);
    int at = tm.tm_hour * 60 + tm.tm_min, from = from_h * 60 + from_m, to = to_h * 60 + to_m;
    return from <= to ? at >= from && at < to : at >= from || at < to;
}

static void add_blockers(struct cutover *c, struct strbuf *out)
{
    struct pg_blocker *list = NULL;
    struct error err = {0};
    size_t n = 0;

    if (!pg_blockers(c->blue.pg, 1000000, &list, &n, &err)) {
        strbuf_addf(out, "  open transactions on blue: could not be read: %s\n", err.message);
        return;
    }
    strbuf_addf(out, "  open transactions on blue over 1 s: %zu\n", n);
    pg_blockers_describe(out, list, n);
    free(list);
}

static void add_slot(struct cutover *c, struct strbuf *out)
{
    struct slot_info slot;
    struct error err = {0};
    char kept[HUMAN_SIZE];

    if (slot_read(c->blue.pg, c->names.slot, &slot, &err) && slot.exists)
        strbuf_addf(out, "  a stopped run would hold WAL on blue: %s now (budget %s)\n",
                    human_bytes(kept, slot.retained_bytes),
                    playbook_str(cutover_section(c, "capture"), "wal_budget"));
}

static int64_t took(const struct cutover *c, const char *step)
{
    int i = engine_find(&c->engine, step);

    return i < 0 ? 0 : c->engine.elapsed_us[i];
}

/* Thresholds that the run has passed: asked about here, since only write_pause undoes anything by
 * itself. */
static void add_thresholds(struct cutover *c, struct strbuf *out)
{
    const struct playbook_section *s = cutover_section(c, "thresholds");
    const struct {
        const char *key;
        int64_t us;
    } parts[] = {{"clone", took(c, "dump") + took(c, "restore")},
                 {"migrate", took(c, "migrate")},
                 {"replay", took(c, "replay")},
                 {"verify", took(c, "prove") + took(c, "verify")}};
    char a[CLOCK_HUMAN_SIZE];

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!playbook_given(s, parts[i].key) || parts[i].us <= playbook_us(s, parts[i].key))
            continue;
        clock_human(a, parts[i].us);
        strbuf_addf(out, "  OVER ITS THRESHOLD: %s took %s, limit %s\n", parts[i].key, a,
                    playbook_str(s, parts[i].key));
    }
    if (playbook_given(s, "lag") && live_lag_bytes(c) > playbook_bytes(s, "lag"))
        strbuf_addf(out, "  OVER ITS THRESHOLD: the lag, limit %s\n", playbook_str(s, "lag"));
}

static void add_constraints(struct cutover *c, struct strbuf *out)
{
    struct constraint_backlog b;

    if (!c->tail || c->checks.n == 0)
        return;
    tail_backlog(c->tail, &b);
    strbuf_addf(out,
                "  constraints that replay doesn't enforce: %zu, checked in full; %zu keys of "
                "their tables changed since\n",
                c->checks.n, b.keys);
    if (b.full)
        strbuf_addf(out, "  SLOW: %zu of them would have to be checked in full in the pause\n",
                    b.full);
}

static char *evidence(struct cutover *c)
{
    struct strbuf out = {0};
    char lag[HUMAN_SIZE];
    struct verifier_stats v = {0};

    strbuf_addf(&out, "  lag: %s\n",
                human_bytes(lag, live_lag_bytes(c) < 0 ? 0 : live_lag_bytes(c)));
    if (c->tail) {
        tail_stats(c->tail, &v);
        strbuf_addf(
            &out,
            "  proved and verified; tail not compared yet: %lld keys, %lld tables as a whole "
            "(about %.1f ms to confirm)\n",
            (long long) v.waiting, (long long) v.whole,
            (double) tail_estimate_us(c->tail) / 1000.0);
        if (v.suspicious)
            strbuf_addf(&out, "  SUSPICIOUS: %lld keys differed again and again\n",
                        (long long) v.suspicious);
    }
    add_constraints(c, &out);
    if (journal_get_fact(c->journal, "unproved") &&
        strcmp(journal_get_fact(c->journal, "unproved"), "0") != 0)
        strbuf_addf(
            &out,
            "  UNPROVED: %s tables whose rows all changed while cloning (proof.txt names them)\n",
            journal_get_fact(c->journal, "unproved"));
    add_thresholds(c, &out);
    add_blockers(c, &out);
    add_slot(c, &out);
    strbuf_addf(&out, "  pause budget: %s; past it everything is undone and blue serves\n",
                playbook_str(cutover_section(c, "thresholds"), "write_pause"));
    return strbuf_take(&out);
}

static const struct playbook_section *gate_section(struct cutover *c, const char *when)
{
    for (size_t i = 0; i < playbook_count(c->pb, "gate"); i++)
        if (strcmp(playbook_section_name(playbook_at(c->pb, "gate", i)), when) == 0)
            return playbook_at(c->pb, "gate", i);
    return NULL;
}

/* What the evidence forbids whoever answers. */
static bool allowed(struct cutover *c, struct error *err)
{
    struct verifier_stats v = {0};

    if (c->tail)
        tail_stats(c->tail, &v);
    if (v.suspicious == 0)
        return true;
    error_set(err, ERR_NOGO,
              "%lld rows differed from blue again and again after replay had passed them",
              (long long) v.suspicious);
    return error_hint(err, "`pgcutover verify %s` compares everything and names them.",
                      c->names.run);
}

static bool journal_answer(struct cutover *c, const char *gate, const char *answer, const char *who,
                           struct error *err)
{
    return journal_add(c->journal, "gate",
                       json_pack("{s:s, s:s, s:s}", "gate", gate, "answer", answer, "by", who),
                       err);
}

static enum inbox poll_answer(struct cutover *c, const char *gate, bool first, const char **who)
{
    enum inbox in = (enum inbox) atomic_exchange(&c->inbox, INBOX_EMPTY);

    *who = "control";
    if (in == INBOX_EMPTY && c->ask) {
        in = c->ask(c->ui, gate, c->gate_text, first);
        *who = "terminal";
    }
    if (in == INBOX_EMPTY && c->assume_yes) {
        in = INBOX_GO;
        *who = "--yes";
    }
    return in;
}

static bool wait_at_gate(struct cutover *c, const char *gate, const char *window,
                         enum gate_answer *answer, struct error *err)
{
    int64_t remind = 0;
    bool first = true;

    *answer = GATE_GO;
    for (;;) {
        const char *who = "";
        enum inbox in;

        if (!live_check(c, err))
            return false;
        if (clock_us() >= remind) {
            free(c->gate_text);
            c->gate_text = evidence(c);
            event_emit(&(struct event){.kind = EVENT_GATE, .step = gate, .text = c->gate_text});
            remind = clock_us() + REMIND_US;
            first = true;
        }
        in = poll_answer(c, gate, first, &who);
        first = false;
        if (in == INBOX_GO && !in_window(window)) {
            event_info("the gate %s opens at %s", gate, window);
            in = INBOX_EMPTY;
            clock_sleep_ms(1000);
        }
        if (in != INBOX_EMPTY && in != INBOX_WAIT)
            atomic_store(&c->gate_open, 0);
        if (in == INBOX_GO)
            return allowed(c, err) && journal_answer(c, gate, "go", who, err);
        if (in == INBOX_WAIT)
            remind = 0;
        if (in == INBOX_STOP || in == INBOX_ABORT) {
            *answer = in == INBOX_STOP ? GATE_STOP : GATE_ABORT;
            return journal_answer(c, gate, in == INBOX_STOP ? "stop" : "abort", who, err);
        }
        clock_sleep_ms(GATE_TICK_MS);
    }
}

bool gate_before(void *ctx, const struct step *step, enum gate_answer *answer, struct error *err)
{
    struct cutover *c = ctx;
    const struct playbook_section *gate;
    char when[64];
    bool ok, first_of_pause = strcmp(step->name, DEFAULT_GATE) == 0;

    *answer = GATE_GO;
    snprintf(when, sizeof when, "before-%s", step->name);
    if (c->decided && (step->flags & STEP_FORWARD))
        return true;
    if (!run_checks(c, when, err) || !run_hooks(c, when, err))
        return false;
    gate = gate_section(c, when);
    if ((!gate && !first_of_pause) || ((step->flags & STEP_PAUSE) && !first_of_pause))
        return true;
    atomic_store(&c->inbox, INBOX_EMPTY); /* what came in before was about another gate */
    atomic_store(&c->gate_open, 1);
    ok = wait_at_gate(c, when, gate ? playbook_str(gate, "window") : NULL, answer, err);
    atomic_store(&c->gate_open, 0);
    return ok;
}

static bool stop_here(struct cutover *c, const struct step *step, const char *when,
                      struct error *err)
{
    enum gate_answer answer;
    bool ok;

    atomic_store(&c->inbox, INBOX_EMPTY);
    atomic_store(&c->gate_open, 1);
    ok = wait_at_gate(c, when, NULL, &answer, err);
    atomic_store(&c->gate_open, 0);
    if (ok && answer != GATE_GO)
        ok = error_set(err, ERR_STOPPED, "stopped after %s", step->name);
    return ok;
}

/* Between open and release clients wait: what is to run after open runs after release. */
bool gate_after(void *ctx, const struct step *step, struct error *err)
{
    struct cutover *c = ctx;
    char when[64];

    if (strcmp(step->name, "open") == 0)
        return true;
    snprintf(when, sizeof when, "after-%s", step->name);
    if (strcmp(step->name, "release") == 0 &&
        (!run_hooks(c, "after-open", err) || !run_checks(c, "after-open", err)))
        return false;
    if (!run_hooks(c, when, err))
        return false;
    return !c->pause_after || strcmp(c->pause_after, step->name) != 0 ||
           stop_here(c, step, when, err);
}

/* A pause that overran its budget returns to its gate; with --yes only so many times. */
static bool retry_pause(void *ctx, const struct error *why, bool *again, struct error *err)
{
    struct cutover *c = ctx;
    const struct playbook_section *s = cutover_section(c, "cutover");
    int64_t until;

    c->pause.attempts++;
    event_warn("the pause was undone and %s serves on: %s", c->pause.from->name, why->message);
    if (why->detail[0])
        event_info("what held it:\n%s", why->detail);
    *again = c->assume_yes ? c->pause.attempts < playbook_int(s, "switch_attempts")
                           : c->pause.from == &c->blue;
    if (!*again)
        return true;
    until = clock_us() + playbook_us(s, "switch_retry");
    while (c->assume_yes && !clock_passed(until)) {
        if (!live_check(c, err))
            return false;
        clock_sleep_ms(GATE_TICK_MS);
    }
    return true;
}

static bool no_gate(void *ctx, const struct step *step, enum gate_answer *answer, struct error *err)
{
    (void) ctx;
    (void) step;
    (void) err;
    *answer = GATE_GO;
    return true;
}

const struct engine_ops online_ops = {.before = gate_before,
                                      .after = gate_after,
                                      .decided = pause_decided,
                                      .retry_pause = retry_pause};
const struct engine_ops rollback_ops = {
    .before = no_gate, .decided = pause_decided, .retry_pause = retry_pause};
