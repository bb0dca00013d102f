/* rehearse.c - the procedure up to the gate on a scratch clone, with timings, and go or no-go. */
#include "cmd.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "sys/file.h"
#include "sys/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool create_rehearsal(const struct options *o, struct cutover *c, struct error *err)
{
    struct rundir dir = {.lock_fd = -1};
    struct playbook *pb = NULL;
    char *base = NULL, *name = NULL, *database = NULL, *ini = NULL;
    const char *elsewhere = NULL;
    struct strbuf text = {0};
    struct journal *j = NULL;
    bool ok = load_playbook(o, o->args[0], &pb, err);

    if (!ok)
        return false;
    base = rundir_base(o->dir ? o->dir : playbook_str(playbook_section(pb, "cutover"), "dir"));
    name = xstrfmt("%s-rehearsal", playbook_str(playbook_section(pb, "cutover"), "name"));
    ok = rundir_create(&dir, base, name, err);
    if (ok) {
        ini = rundir_file(&dir, "playbook.ini");
        playbook_write(pb, &text);
        elsewhere = playbook_str(playbook_section(pb, "rehearsal"), "conninfo");
        ok = file_replace(ini, text.data, text.len, 0600, err) &&
             pg_conninfo_dbname(
                 elsewhere ? elsewhere : playbook_str(playbook_section(pb, "green"), "conninfo"),
                 &database, err);
    }
    if (ok) {
        char *scratch = elsewhere ? xstrdup(database) : xstrfmt("%.40s_rehearsal", database);

        ok = journal_open(&j, dir.path, err) &&
             journal_add(j, "created", json_pack("{s:s}", "playbook", playbook_path(pb)), err) &&
             journal_fact(j, "rehearsal", "yes", err) &&
             journal_fact(j, "rehearsal_database", scratch, err);
        journal_close(j);
        free(scratch);
    }
    if (ok)
        ok = cutover_open(c, pb, &dir, true, err);
    else
        playbook_free(pb);
    rundir_release(&dir);
    strbuf_release(&text);
    free(database);
    free(ini);
    free(name);
    free(base);
    return ok;
}

struct verdict {
    bool go;
    json_t *items;
};

static void judge(struct verdict *v, const struct cutover *c, const char *key, int64_t us)
{
    const struct playbook_section *s = playbook_section(c->pb, "thresholds");
    bool given = playbook_given(s, key) || strcmp(key, "write_pause") == 0;
    int64_t limit = playbook_us(s, key);
    bool ok = !given || us <= limit;

    v->go = v->go && ok;
    json_array_append_new(
        v->items,
        json_pack("{s:s, s:f, s:o, s:b}", "what", key, "seconds", (double) us / 1e6, "limit",
                  given ? json_real((double) limit / 1e6) : json_null(), "ok", ok));
}

static int64_t step_us(const struct cutover *c, const char *name)
{
    int i = engine_find(&c->engine, name);

    return i < 0 ? 0 : c->engine.elapsed_us[i];
}

/* The pause would at least drain and confirm; locking and flipping come on top and are not measured
 * here. */
static int64_t predicted_pause(const struct cutover *c)
{
    for (size_t i = journal_count(c->journal); i-- > 0;) {
        const json_t *rec = journal_at(c->journal, i);
        const char *type = json_string_value(json_object_get(rec, "type"));

        if (type && strcmp(type, "measure") == 0)
            return (int64_t) (json_integer_value(json_object_get(rec, "drain_us")) +
                              json_integer_value(json_object_get(rec, "confirm_us")));
    }
    return 0;
}

static void judge_all(struct verdict *v, const struct cutover *c)
{
    int64_t total = 0;

    for (size_t i = 0; i < c->engine.nsteps; i++)
        total += c->engine.elapsed_us[i];
    judge(v, c, "clone", step_us(c, "dump") + step_us(c, "restore"));
    judge(v, c, "migrate", step_us(c, "migrate"));
    judge(v, c, "replay", step_us(c, "replay"));
    judge(v, c, "verify", step_us(c, "prove") + step_us(c, "verify"));
    judge(v, c, "total", total);
    judge(v, c, "write_pause", predicted_pause(c));
}

static void print_verdict(const struct options *o, const struct verdict *v, const struct cutover *c)
{
    json_t *r = json_pack("{s:s, s:s, s:O}", "run", c->dir.name, "result", v->go ? "go" : "no-go",
                          "figures", v->items);
    char *text = json_dumps(r, JSON_INDENT(1));
    size_t i;
    json_t *item;

    if (o->json) {
        printf("%s\n", text);
    } else {
        json_array_foreach(v->items, i, item)
        {
            const json_t *limit = json_object_get(item, "limit");

            printf("%-12s %9.3f s", json_string_value(json_object_get(item, "what")),
                   json_number_value(json_object_get(item, "seconds")));
            if (json_is_number(limit))
                printf("  limit %9.3f s  %s", json_number_value(limit),
                       json_is_true(json_object_get(item, "ok")) ? "ok" : "TOO LONG");
            printf("\n");
        }
        printf("%s (write_pause: what a drain and a confirmation would take at least)\n",
               v->go ? "go" : "no-go");
    }
    free(text);
    json_decref(r);
}

int cmd_rehearse(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct verdict v = {.go = true, .items = json_array()};
    struct error err = {0}, undo = {0};
    bool aborted = false, began = false;
    bool ok = create_rehearsal(o, &c, &err);
    int status = 0;

    began = ok;
    ok = ok && session_begin(o, &c, rehearsal_steps, &online_ops, &err) &&
         session_run(&c, &aborted, &err);
    if (ok && aborted)
        ok = error_set(&err, ERR_NOGO, "the rehearsal was aborted");
    if (ok)
        judge_all(&v, &c);
    if (began) {
        stop_clear();
        if (!engine_undo(&c.engine, &undo) || !rundir_end(c.journal, "rehearsed", &undo))
            event_warn("what the rehearsal made could not all be dropped: %s; `pgcutover abort %s` "
                       "tries again",
                       undo.message, c.dir.path);
    }
    session_end(&c);
    if (!ok) {
        status = report_error(o, &err);
    } else if (undo.code != ERR_NONE) {
        status = report_error(o, &undo);
    } else {
        print_verdict(o, &v, &c);
        status = v.go ? 0 : 3;
    }
    json_decref(v.items);
    cutover_close(&c);
    return status;
}
