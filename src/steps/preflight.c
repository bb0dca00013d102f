/* preflight.c - the step, and the list that its checks fill. The checks are in preflight_checks.c.
 */
#include "steps/preflight.h"

#include "base/alloc.h"
#include "base/event.h"

#include <stdlib.h>
#include <string.h>

void check_add(struct check_list *l, const char *name, enum check_result result, const char *todo,
               const char *fmt, ...)
{
    struct check_item *item = VEC_ADD(l->items, l->n, l->cap);
    struct strbuf seen = {0};
    va_list ap;

    va_start(ap, fmt);
    strbuf_addv(&seen, fmt, ap);
    va_end(ap);
    *item = (struct check_item){.name = name,
                                .result = result,
                                .seen = strbuf_take(&seen),
                                .todo = result == CHECK_PASS ? NULL : xstrdup(todo)};
}

void check_list_release(struct check_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->items[i].seen);
        free(l->items[i].todo);
    }
    free(l->items);
    *l = (struct check_list){0};
}

size_t check_list_fails(const struct check_list *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->n; i++)
        n += l->items[i].result == CHECK_FAIL;
    return n;
}

bool step_preflight(void *ctx, struct error *err)
{
    struct cutover *c = ctx;
    struct check_list list = {0};
    struct strbuf failed = {0};
    bool ok = preflight_run(c, &list, err);

    for (size_t i = 0; ok && i < list.n; i++) {
        const struct check_item *item = &list.items[i];

        if (item->result == CHECK_WARN)
            event_warn("%s: %s%s%s", item->name, item->seen, item->todo ? "; " : "",
                       item->todo ? item->todo : "");
        if (item->result == CHECK_FAIL)
            strbuf_addf(&failed, "%s: %s\n    %s\n", item->name, item->seen,
                        item->todo ? item->todo : "");
    }
    if (ok && failed.len) {
        error_set(err, ERR_NOGO, "preflight: %zu checks failed", check_list_fails(&list));
        error_detail(err, "%s", failed.data);
        ok = error_hint(err, "Nothing was changed on either server. Mend them and run again; "
                             "`pgcutover check` shows "
                             "all of them.");
    }
    strbuf_release(&failed);
    check_list_release(&list);
    return ok;
}
