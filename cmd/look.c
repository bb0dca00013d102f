/* look.c - commands that only look: check, plan, map, status, list, reference. */
#include "cmd.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "steps/keeper.h"
#include "steps/preflight.h"
#include "sys/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const result_names[] = {"pass", "warn", "FAIL"};

static void print_checks(const struct options *o, const struct check_list *list)
{
    json_t *all = json_array();

    for (size_t i = 0; i < list->n; i++) {
        const struct check_item *item = &list->items[i];

        if (!o->json) {
            printf("%-4s  %-26s %s\n", result_names[item->result], item->name, item->seen);
            if (item->todo)
                printf("      %-26s -> %s\n", "", item->todo);
        }
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:s, s:s?}", "check", item->name, "result",
                           item->result == CHECK_FAIL ? "fail" : result_names[item->result], "seen",
                           item->seen, "todo", item->todo));
    }
    if (o->json) {
        char *text = json_dumps(all, JSON_INDENT(1));

        printf("%s\n", text);
        free(text);
    } else {
        printf("%zu checks, %zu failed; nothing was changed\n", list->n, check_list_fails(list));
    }
    json_decref(all);
}

int cmd_check(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct check_list list = {0};
    struct playbook *pb = NULL;
    struct error err = {0};
    int status;

    if (!load_playbook(o, o->args[0], &pb, &err) || !cutover_open(&c, pb, NULL, false, &err) ||
        !preflight_run(&c, &list, &err)) {
        status = report_error(o, &err);
    } else {
        print_checks(o, &list);
        status = check_list_fails(&list) ? 3 : 0;
    }
    check_list_release(&list);
    cutover_close(&c);
    return status;
}

int cmd_plan(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct playbook *pb = NULL;
    struct error err = {0};
    struct check_list list = {0};
    int status = 0;

    if (!load_playbook(o, o->args[0], &pb, &err) || !cutover_open(&c, pb, NULL, false, &err)) {
        status = report_error(o, &err);
    } else {
        preflight_blue(&c, &list); /* reads blue's catalog, for the figures */
        for (const struct step *s = online_steps; s->name; s++) {
            struct strbuf text = {0};

            printf("%-10s %s\n", s->name, s->title);
            if (s->describe)
                s->describe(&c, &text);
            for (char *line = text.data, *end; line && *line; line = end + 1) {
                end = strchr(line, '\n');
                if (!end)
                    break;
                printf("           %.*s\n", (int) (end - line), line);
            }
            if (s->undo_title)
                printf("           undo: %s\n", s->undo_title);
            strbuf_release(&text);
        }
        printf("nothing was changed; the gate stands before hold\n");
    }
    check_list_release(&list);
    cutover_close(&c);
    return status;
}

int cmd_map(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct strbuf text = {0};
    struct error err = {0};
    int status = 0;

    if (!open_run(o, o->nargs ? o->args[0] : NULL, false, &c, &err) || !live_load_map(&c, &err)) {
        if (err.code == ERR_VOID || err.code == ERR_CONNECT)
            error_hint(&err, "The map is derived from the migrated clone: it is there once the "
                             "run's migrate step is.");
        status = report_error(o, &err);
    } else {
        map_print(&text, &c.map, true);
        printf("%s", strbuf_cstr(&text));
        status = map_unresolved(&c.map) ? 3 : 0;
    }
    strbuf_release(&text);
    cutover_close(&c);
    return status;
}

static bool is_live(const struct cutover *c)
{
    char *path = cutover_file(c, "lock");
    struct error err = {0};
    int fd = -1;
    bool live = !file_lock(path, &fd, &err) && err.code == ERR_LOCKED;

    if (fd >= 0)
        close(fd);
    free(path);
    return live;
}

/* A live run rewrites status.json each second; of one that is not, the journal tells. */
static json_t *find_status(struct cutover *c)
{
    char *path = cutover_file(c, "status.json");
    json_t *o = is_live(c) ? json_load_file(path, 0, NULL) : NULL;

    free(path);
    if (o)
        return o;
    engine_init(&c->engine,
                journal_get_fact(c->journal, "rehearsal") ? rehearsal_steps : online_steps,
                &online_ops, c, c->journal);
    return keeper_status(c);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static void print_status(const json_t *o)
{
    const json_t *steps = json_object_get(o, "steps"), *lag = json_object_get(o, "lag_bytes");
    const json_t *p = json_object_get(o, "progress");
    size_t i;
    json_t *s;

    printf("run %s: %s%s%s\n", text_of(o, "run"), text_of(o, "state"),
           *text_of(o, "ended") ? ", " : "", text_of(o, "ended"));
    json_array_foreach((json_t *) steps, i, s)
        printf("  %-10s %-7s %8.1f s\n", text_of(s, "name"), text_of(s, "state"),
               json_number_value(json_object_get(s, "seconds")));
    if (p)
        printf("  %s: %lld of %lld %s\n", text_of(p, "what"),
               (long long) json_integer_value(json_object_get(p, "done")),
               (long long) json_integer_value(json_object_get(p, "total")), text_of(p, "unit"));
    if (json_is_integer(lag))
        printf("  lag: %lld bytes\n", (long long) json_integer_value(lag));
    if (*text_of(o, "gate"))
        printf("  waits at the gate before %s\n", text_of(o, "gate"));
    printf("%s\n%s\n%s\n", text_of(o, "serving"), text_of(o, "way_back"), text_of(o, "next"));
}

static int show_status(const struct options *o)
{
    struct cutover c = {.dir.lock_fd = -1};
    struct error err = {0};
    json_t *status;

    if (!open_run(o, o->nargs ? o->args[0] : NULL, false, &c, &err)) {
        cutover_close(&c);
        return report_error(o, &err);
    }
    status = find_status(&c);
    if (o->json) {
        char *text = json_dumps(status, JSON_INDENT(1));

        printf("%s\n", text);
        free(text);
    } else {
        print_status(status);
    }
    fflush(stdout);
    json_decref(status);
    cutover_close(&c);
    return 0;
}

int cmd_status(const struct options *o)
{
    int status = show_status(o);

    while (o->watch && status == 0) {
        clock_sleep_ms(1000);
        if (isatty(STDOUT_FILENO) && !o->json)
            printf("\033[H\033[2J");
        status = show_status(o);
    }
    return status;
}

static json_t *list_one(const char *base, const char *name)
{
    char *path = xstrfmt("%s/%s", base, name);
    struct journal *j = NULL;
    struct error err = {0};
    json_t *one = NULL;

    if (journal_read(&j, path, &err) && journal_count(j) > 0) {
        const char *ended = rundir_ended(j);

        one =
            json_pack("{s:s, s:s, s:s, s:s}", "run", name, "began", text_of(journal_at(j, 0), "at"),
                      "last", text_of(journal_at(j, journal_count(j) - 1), "at"), "state",
                      ended ? ended : "under way");
    }
    journal_close(j);
    free(path);
    return one;
}

int cmd_list(const struct options *o)
{
    char *base = rundir_base(o->dir);
    char **names = NULL;
    struct error err = {0};
    size_t n = 0;
    json_t *all = json_array();
    int status = 0;

    if (file_exists(base) && !file_list(base, &names, &n, &err))
        status = report_error(o, &err);
    for (size_t i = 0; i < n; i++) {
        json_t *one = list_one(base, names[i]);

        if (!one)
            continue;
        if (!o->json)
            printf("%-30s %-12s began %s, last %s\n", names[i], text_of(one, "state"),
                   text_of(one, "began"), text_of(one, "last"));
        json_array_append_new(all, one);
    }
    if (o->json) {
        char *text = json_dumps(all, JSON_INDENT(1));

        printf("%s\n", text);
        free(text);
    } else if (json_array_size(all) == 0) {
        printf("no runs in %s\n", base);
    }
    json_decref(all);
    file_free_list(names);
    free(base);
    return status;
}

int cmd_reference(const struct options *o)
{
    struct strbuf text = {0};
    enum playbook_format format = PLAYBOOK_TEXT;

    if (o->format && strcmp(o->format, "markdown") == 0)
        format = PLAYBOOK_MARKDOWN;
    else if (o->format && strcmp(o->format, "roff") == 0)
        format = PLAYBOOK_ROFF;
    else if (o->format && strcmp(o->format, "text") != 0) {
        fprintf(stderr, "pgcutover reference: --format is text, markdown or roff\n");
        return 2;
    }
    playbook_reference(&text, format);
    printf("%s", strbuf_cstr(&text));
    strbuf_release(&text);
    return 0;
}
