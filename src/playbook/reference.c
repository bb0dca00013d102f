/*
 * reference.c - the key table as text, as Markdown for the README, and as roff for the man page.
 */
#include "playbook/playbook_internal.h"

#include <string.h>

#define WIDTH 80

/* Text into a format, with what that format takes for its own made plain. */
static void add_plain(struct strbuf *out, enum playbook_format format, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (format == PLAYBOOK_MARKDOWN && strchr("|<>*_[]\\`", *p))
            strbuf_addch(out, '\\');
        if (format == PLAYBOOK_ROFF && *p == '\\')
            strbuf_addstr(out, "\\e");
        else if (format == PLAYBOOK_ROFF && *p == '-')
            strbuf_addstr(out, "\\-");
        else
            strbuf_addch(out, *p);
    }
}

/* Text at the start of a line: roff takes a '.' or ''' there for a request. */
static void add_line(struct strbuf *out, enum playbook_format format, const char *text)
{
    if (format == PLAYBOOK_ROFF && (*text == '.' || *text == '\''))
        strbuf_addstr(out, "\\&");
    add_plain(out, format, text);
}

/* A sentence or two. On a screen they are broken at WIDTH, each line indented; elsewhere the reader
 * does that. */
static void add_help(struct strbuf *out, enum playbook_format format, const char *text, int indent)
{
    size_t room = (size_t) (WIDTH - indent);

    if (format != PLAYBOOK_TEXT) {
        add_line(out, format, text);
        return;
    }
    while (*text) {
        size_t len = strlen(text);
        if (len > room) {
            len = room;
            while (len > 0 && text[len] != ' ')
                len--;
            len = len > 0 ? len : strcspn(text, " ");
        }
        strbuf_addf(out, "%*s%.*s", indent, "", (int) len, text);
        text += len;
        while (*text == ' ')
            text++;
        if (*text)
            strbuf_addch(out, '\n');
    }
}

static const char *name_in_header(const struct playbook_kind *kind)
{
    switch (kind->naming) {
    case PLAYBOOK_SINGLE:
        return "";
    case PLAYBOOK_NAMED:
        return "NAME";
    case PLAYBOOK_BEFORE:
        return "before-STEP";
    case PLAYBOOK_BEFORE_AFTER:
        return "before-STEP|after-STEP";
    }
    return "";
}

/* "whole number, 1 to 64", "full or fail", "list of before-hold, before-open, after-open" */
static void add_type(struct strbuf *out, const struct playbook_key *k)
{
    if (k->type != PLAYBOOK_ENUM)
        strbuf_addstr(out, playbook_type_name(k->type));
    if (k->type == PLAYBOOK_LIST && k->values)
        strbuf_addstr(out, " of ");
    for (const char *p = k->values; p && *p; p++) {
        if (*p == '|')
            strbuf_addstr(out, k->type == PLAYBOOK_ENUM && !strchr(p + 1, '|') ? " or " : ", ");
        else
            strbuf_addch(out, *p);
    }
    if (k->min && k->max)
        strbuf_addf(out, ", %s to %s", k->min, k->max);
    else if (k->min)
        strbuf_addf(out, ", at least %s", k->min);
    else if (k->max)
        strbuf_addf(out, ", at most %s", k->max);
}

static const char *default_of(const struct playbook_key *k)
{
    if ((k->flags & PLAYBOOK_REQUIRED) != 0)
        return "required";
    if ((k->flags & PLAYBOOK_SECRET) != 0 || !k->def)
        return "";
    return k->def;
}

static void add_key(struct strbuf *out, enum playbook_format format, const struct playbook_key *k)
{
    struct strbuf type = {0};
    const char *def = default_of(k);
    const char *tail = k->tail ? k->tail : "";
    const char *label = *def && strcmp(def, "required") != 0 ? "default " : "";

    add_type(&type, k);
    if (format == PLAYBOOK_MARKDOWN) {
        strbuf_addf(out, "| `%s%s` | ", k->key, tail);
        add_plain(out, format, strbuf_cstr(&type));
        strbuf_addf(out, " | %s%s%s | ", *label ? "`" : "", def, *label ? "`" : "");
    } else {
        strbuf_addstr(out, format == PLAYBOOK_ROFF ? ".TP\n\\fB" : "  ");
        add_plain(out, format, k->key);
        add_plain(out, format, tail);
        strbuf_addstr(out, format == PLAYBOOK_ROFF ? "\\fR (" : "  (");
        add_plain(out, format, strbuf_cstr(&type));
        if (*def)
            strbuf_addstr(out, "; ");
        strbuf_addstr(out, label);
        add_plain(out, format, def);
        strbuf_addstr(out, format == PLAYBOOK_ROFF ? ")\n" : ")\n");
    }
    add_help(out, format, k->help, 6);
    strbuf_addstr(out, format == PLAYBOOK_MARKDOWN ? " |\n" : "\n");
    strbuf_release(&type);
}

static void add_kind(struct strbuf *out, enum playbook_format format,
                     const struct playbook_kind *kind)
{
    struct strbuf header = {0};

    playbook_header(&header, kind, name_in_header(kind));
    if (format == PLAYBOOK_MARKDOWN)
        strbuf_addf(out, "\n### `%s`\n\n", strbuf_cstr(&header));
    else if (format == PLAYBOOK_ROFF) {
        strbuf_addstr(out, ".SS \"");
        add_plain(out, format, strbuf_cstr(&header));
        strbuf_addstr(out, "\"\n");
    } else
        strbuf_addf(out, "\n%s\n", strbuf_cstr(&header));
    add_help(out, format, kind->help, 2);
    strbuf_addch(out, '\n');
    if (format == PLAYBOOK_MARKDOWN)
        strbuf_addstr(out, "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    else if (format == PLAYBOOK_TEXT)
        strbuf_addch(out, '\n');
    for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
        if (strcmp(k->kind, kind->name) == 0)
            add_key(out, format, k);
    }
    strbuf_release(&header);
}

static void add_rules(struct strbuf *out, enum playbook_format format)
{
    static const char *const rules[] = {
        "A comment has a line of its own, which starts with ; or #. A ; inside a value belongs to "
        "it.",
        "An indented line continues the value above it, unless it is a comment.",
        "${NAME} in a value takes an environment variable, which must be set. A literal ${ is "
        "written $${.",
        "A value that is @FILE is read from that file; a literal @ at the start is written @@.",
        "Relative paths start from the playbook's directory, those of an overlay too; see "
        "base_dir.",
        "Durations are written 500ms, 2s, 10m, 2h or 7d; sizes 4096, 64kB, 8MB or 20GB, in powers "
        "of 1024.",
        "In an overlay or in --set a key with an empty value goes back to its default.",
    };

    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (format == PLAYBOOK_MARKDOWN)
            strbuf_addstr(out, "- ");
        else if (format == PLAYBOOK_ROFF)
            strbuf_addstr(out, ".PP\n");
        add_help(out, format, rules[i], 0);
        strbuf_addch(out, '\n');
    }
}

void playbook_reference(struct strbuf *out, enum playbook_format format)
{
    add_rules(out, format);
    for (const struct playbook_kind *k = playbook_kinds; k->name; k++)
        add_kind(out, format, k);
}
