/* restore_list.c - what of an archive's table of contents is ours, and stays behind. */
#include "private.h"

#include "base/alloc.h"

#define FENCE_TRIGGER " pgcutover_fence "

static bool starts_with(const char *line, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    return len >= n && memcmp(line, prefix, n) == 0;
}

/*
 * An entry is "3412; 3466 16500 EVENT TRIGGER - name owner": two numbers and the object's, then
 * what it is, schema, name, owner. Schema pgcutover itself isn't in the dump; what stands outside
 * of it and calls into it is: the guard, which refuses DDL, and (procedure read-only dumps behind
 * the fence) the fence's triggers on every table.
 */
static bool is_ours(const char *line, size_t len)
{
    static const char *const prefixes[] = {"EVENT TRIGGER - pgcutover",
                                           "COMMENT - EVENT TRIGGER pgcutover",
                                           "COMMENT - EVENT TRIGGER \"pgcutover",
                                           "SCHEMA - pgcutover ",
                                           "ACL - SCHEMA pgcutover ",
                                           "COMMENT - SCHEMA pgcutover ",
                                           NULL};
    for (int numbers = 0; numbers < 3; numbers++) {
        const char *space = memchr(line, ' ', len);
        if (!space)
            return false;
        len -= (size_t) (space + 1 - line);
        line = space + 1;
    }
    for (size_t i = 0; prefixes[i]; i++)
        if (starts_with(line, len, prefixes[i]))
            return true;
    return starts_with(line, len, "TRIGGER ") &&
           memmem(line, len, FENCE_TRIGGER, strlen(FENCE_TRIGGER)) != NULL;
}

void restore_list_filter(struct restore_list *out, const char *listing)
{
    for (const char *line = listing; *line;) {
        size_t len = strcspn(line, "\n");
        bool entry = len > 0 && line[0] != ';';
        bool ours = entry && is_ours(line, len);
        if (entry && !ours) {
            strbuf_add(&out->text, line, len);
            strbuf_addch(&out->text, '\n');
        }
        out->entries += entry && !ours;
        out->left_out += ours;
        line += len + (line[len] == '\n');
    }
}
