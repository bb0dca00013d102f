/* report.c - the one place that tells the user about an error, and the last three lines. */
#include "cmd.h"

#include <stdio.h>
#include <stdlib.h>

int report_error(const struct options *o, const struct error *err)
{
    int status = error_exit_status(err->code);

    if (o->json) {
        json_t *e =
            json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "error", error_code_name(err->code),
                      "status", status, "message", err->message, "detail", err->detail, "hint",
                      err->hint, "context", err->context, "sqlstate", err->sqlstate);
        char *text = json_dumps(e, JSON_INDENT(1));

        printf("%s\n", text ? text : "{}");
        free(text);
        json_decref(e);
    }
    fprintf(stderr, "pgcutover: %s%s%s", err->context, err->context[0] ? ": " : "", err->message);
    if (err->sqlstate[0])
        fprintf(stderr, " (SQLSTATE %s)", err->sqlstate);
    fprintf(stderr, "\n");
    if (err->detail[0])
        fprintf(stderr, "  %s\n", err->detail);
    if (err->hint[0])
        fprintf(stderr, "  %s\n", err->hint);
    return status;
}

void report_lines(const struct options *o, const struct cutover *c)
{
    struct three_lines l;

    if (o->json)
        return;
    cutover_three_lines(c, &l);
    printf("%s\n%s\n%s\n", l.serving, l.way_back, l.next);
}
