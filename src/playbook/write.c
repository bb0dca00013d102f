/*
 * write.c - a loaded playbook back to text: the run's copy. Loaded from wherever it lies it gives
 * the same values: base_dir says where relative paths started.
 */
#include "playbook/playbook_internal.h"

#include <string.h>

/* Continued lines are indented. No line of a value starts with white space or, from the second on,
 * with a comment sign: neither a file nor as_lines() in set.c lets one through. */
static void write_value(struct strbuf *out, const char *key, const char *value)
{
    strbuf_addf(out, "%s = ", key);
    for (const char *p = value; *p; p++) {
        strbuf_addch(out, *p);
        if (*p == '\n')
            strbuf_addstr(out, "    ");
    }
    strbuf_addch(out, '\n');
}

static void write_base_dir(struct strbuf *out, const char *dir)
{
    struct strbuf escaped = {0};

    for (const char *p = dir; *p; p++) {
        if (strncmp(p, "${", 2) == 0)
            strbuf_addch(&escaped, '$');
        strbuf_addch(&escaped, *p);
    }
    write_value(out, "base_dir", strbuf_cstr(&escaped));
    strbuf_release(&escaped);
}

void playbook_write(const struct playbook *pb, struct strbuf *out)
{
    strbuf_addstr(out, "; from: ");
    for (const char *p = pb->path; *p; p++)
        strbuf_addch(out, (unsigned char) *p < ' ' ? '?' : *p);
    strbuf_addch(out, '\n');
    for (size_t i = 0; i < pb->nsections; i++) {
        const struct playbook_section *s = pb->sections[i];
        strbuf_addch(out, '\n');
        playbook_header(out, s->kind, s->name);
        strbuf_addch(out, '\n');
        if (strcmp(s->kind->name, "cutover") == 0)
            write_base_dir(out, pb->dir);
        for (size_t j = 0; j < s->nentries; j++) {
            const struct playbook_entry *e = &s->entries[j];
            if (e->text && strcmp(e->key, "base_dir") != 0)
                write_value(out, e->key, strbuf_cstr(&e->raw));
        }
    }
}
