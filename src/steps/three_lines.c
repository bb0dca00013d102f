/* three_lines.c - who serves, the way back, the next command: the last words of every screen
 * (DESIGN 4). */
#include "steps/steps.h"

#include "base/alloc.h"

#include <stdio.h>
#include <string.h>

static void set(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
}

static void lines_ended(const struct cutover *c, const char *how, struct three_lines *out)
{
    bool green = strcmp(how, "finished") == 0;

    snprintf(out->serving, sizeof out->serving, "serving: %s (the journal's last word: %s)",
             green ? "green" : "blue", how);
    set(out->way_back, sizeof out->way_back,
        green ? "way back: none through this run any more; blue holds the data as of the switch"
              : "way back: nothing to go back from");
    snprintf(
        out->next, sizeof out->next, "next: %s",
        green ? "nothing; the run is over" : "pgcutover run PLAYBOOK, when you want to try again");
    (void) c;
}

static void lines_after_open(const struct cutover *c, struct three_lines *out)
{
    bool released = journal_get_fact(c->journal, "released") != NULL;

    if (!released) {
        set(out->serving, sizeof out->serving,
            "serving: green, decided on blue and not finished: traffic may still be held");
        snprintf(out->way_back, sizeof out->way_back, "way back: pgcutover rollback %s",
                 c->dir.name);
        snprintf(out->next, sizeof out->next, "next: pgcutover resume %s", c->dir.name);
        return;
    }
    set(out->serving, sizeof out->serving,
        "serving: green (blue's fence stands, green's is open, traffic read back at the switch)");
    snprintf(out->way_back, sizeof out->way_back,
             "way back: pgcutover rollback %s; green's writes since the switch would be lost, it "
             "counts them first",
             c->dir.name);
    snprintf(out->next, sizeof out->next,
             "next: pgcutover finish %s, when you no longer want to go back", c->dir.name);
}

void cutover_three_lines(const struct cutover *c, struct three_lines *out)
{
    const char *ended = c->journal ? rundir_ended(c->journal) : NULL;
    const char *rolling = c->journal ? journal_get_fact(c->journal, "rollback_decided") : NULL;

    if (ended) {
        lines_ended(c, ended, out);
    } else if (rolling) {
        set(out->serving, sizeof out->serving,
            "serving: blue, the rollback was decided and is not finished");
        set(out->way_back, sizeof out->way_back, "way back: finish the rollback first");
        snprintf(out->next, sizeof out->next, "next: pgcutover rollback %s", c->dir.name);
    } else if (c->rehearsal) {
        set(out->serving, sizeof out->serving, "serving: blue (a rehearsal switches nothing)");
        set(out->way_back, sizeof out->way_back, "way back: nothing to go back from");
        snprintf(out->next, sizeof out->next, "next: %s%s",
                 c->keeper ? "wait for its verdict" : "pgcutover abort ",
                 c->keeper ? "" : c->dir.name);
    } else if (c->decided) {
        lines_after_open(c, out);
    } else if (c->journal && journal_get_fact(c->journal, "aborting")) {
        set(out->serving, sizeof out->serving, "serving: blue (the run is being aborted)");
        set(out->way_back, sizeof out->way_back, "way back: nothing to go back from");
        snprintf(out->next, sizeof out->next, "next: pgcutover abort %s", c->dir.name);
    } else {
        bool pause = c->engine.steps && (engine_state(&c->engine, "hold") == STEP_BEGUN ||
                                         engine_state(&c->engine, "hold") == STEP_DONE);

        set(out->serving, sizeof out->serving,
            pause ? "serving: blue, in the pause (not decided: if this process dies, blue goes on "
                    "by itself)"
                  : "serving: blue (nothing was switched; its arbiter row has not decided)");
        snprintf(out->way_back, sizeof out->way_back,
                 "way back: pgcutover abort %s; it would lose nothing",
                 c->dir.name ? c->dir.name : "RUN");
        if (c->gate_open)
            snprintf(out->next, sizeof out->next,
                     "next: pgcutover control %s go (or wait, stop, abort)", c->dir.name);
        else if (c->keeper)
            snprintf(out->next, sizeof out->next,
                     "next: wait for the gate, or pgcutover control %s stop", c->dir.name);
        else
            snprintf(out->next, sizeof out->next, "next: pgcutover resume %s",
                     c->dir.name ? c->dir.name : "RUN");
    }
}
