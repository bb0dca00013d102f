/* script.c - a file's text into statements. What kind each is, is found in classify.c. */
#include "migrate/script.h"

#include "base/alloc.h"

#include <ctype.h>
#include <pg_query.h>
#include <stdlib.h>
#include <strings.h>

int script_line(const char *text, size_t offset)
{
    int line = 1;
    for (size_t i = 0; i < offset && text[i]; i++)
        line += text[i] == '\n';
    return line;
}

/* Past white space and comments; a comment that doesn't end is left to the parser to complain of.
 */
static size_t skip_blank(const char *text, size_t at, size_t end)
{
    while (at < end) {
        if (isspace((unsigned char) text[at])) {
            at++;
        } else if (at + 1 < end && text[at] == '-' && text[at + 1] == '-') {
            while (at < end && text[at] != '\n')
                at++;
        } else if (at + 1 < end && text[at] == '/' && text[at + 1] == '*') {
            int depth = 0;
            do {
                if (at + 1 < end && text[at] == '/' && text[at + 1] == '*') {
                    depth++;
                    at += 2;
                } else if (at + 1 < end && text[at] == '*' && text[at + 1] == '/') {
                    depth--;
                    at += 2;
                } else {
                    at++;
                }
            } while (depth > 0 && at < end);
        } else {
            break;
        }
    }
    return at;
}

/* libpg_query counts characters of UTF-8, from 1. */
static size_t byte_of_character(const char *text, size_t len, int position)
{
    size_t at = 0;
    for (int n = 1; n < position && at < len; n++) {
        at++;
        while (at < len && ((unsigned char) text[at] & 0xc0) == 0x80)
            at++;
    }
    return at;
}

static void line_bounds(const char *text, size_t len, size_t at, size_t *begin, size_t *end)
{
    *begin = at < len ? at : len;
    while (*begin > 0 && text[*begin - 1] != '\n')
        --*begin;
    *end = *begin;
    while (*end < len && text[*end] != '\n' && text[*end] != '\r')
        ++*end;
}

static bool is_copy_from_stdin(const char *text, size_t begin, size_t end)
{
    struct statement st = {.offset = begin, .len = end - begin};
    struct error why = {0};
    bool refused = begin < end && strncasecmp(text + begin, "copy", 4) == 0 &&
                   !statement_classify(&st, text, &why);
    free(st.index);
    free(st.table);
    return refused;
}

/*
 * A COPY's data stands where the parser expects SQL: then the error lies behind a COPY ... FROM
 * stdin. The semicolon that ends it is looked for backwards, for a few tries: the data may hold
 * some too.
 */
static bool follows_copy(const char *text, size_t at)
{
    size_t end = at;
    for (int tries = 0; tries < 100; tries++) {
        while (end > 0 && text[end - 1] != ';')
            end--;
        if (end == 0)
            return false;
        end--;
        char *before = xstrndup(text, end);
        PgQuerySplitResult split = pg_query_split_with_parser(before);
        bool parsed = !split.error && split.n_stmts > 0;
        bool copy = false;
        if (parsed) {
            size_t begin = (size_t) split.stmts[split.n_stmts - 1]->stmt_location;
            copy = is_copy_from_stdin(text, skip_blank(text, begin, end), end);
        }
        pg_query_free_split_result(split);
        free(before);
        if (parsed)
            return copy;
    }
    return false;
}

static void copy_advice(struct error *err)
{
    error_hint(
        err, "Write INSERT statements, or load the data with the playbook's [migrations] command = "
             "(psql -f knows COPY FROM stdin).");
}

static bool meta_command(const char *file, const char *text, size_t len, size_t at,
                         struct error *err)
{
    size_t begin, end;
    line_bounds(text, len, at, &begin, &end);
    error_set(err, ERR_MIGRATION, "%s:%d: \"%.*s\" is a command of psql, not SQL", file,
              script_line(text, at), (int) (end - at > 80 ? 80 : end - at), text + at);
    return error_hint(
        err, "Files are sent to the server as they are: take the line out, write what it does in "
             "SQL, or run the file with the playbook's [migrations] command = psql -f.");
}

static bool syntax_error(const char *file, const char *text, size_t len, const PgQueryError *why,
                         struct error *err)
{
    size_t at = byte_of_character(text, len, why->cursorpos);
    size_t begin, end;

    if (why->cursorpos <= 0)
        return error_set(err, ERR_MIGRATION, "%s: %s", file, why->message);
    if (at < len && text[at] == '\\')
        return meta_command(file, text, len, at, err);
    if (follows_copy(text, at)) {
        error_set(err, ERR_MIGRATION,
                  "%s:%d: data of a COPY FROM stdin can't stand in a migration file", file,
                  script_line(text, at));
        copy_advice(err);
        return false;
    }
    error_set(err, ERR_MIGRATION, "%s:%d: %s", file, script_line(text, at), why->message);
    line_bounds(text, len, at, &begin, &end);
    error_detail(err, "%.*s", (int) (end - begin > 300 ? 300 : end - begin), text + begin);
    if (memmem(text + begin, end - begin, "${", 2))
        return error_hint(
            err, "Placeholders (${...}) are not filled in; write the value, or use the playbook's "
                 "[migrations] command = flyway migrate.");
    return error_hint(
        err,
        "Mend the statement. Files are read with the grammar of PostgreSQL %s; for newer syntax "
        "use the playbook's [migrations] command =.",
        PG_MAJORVERSION);
}

static bool line_starts(const char *line, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    return len >= n && strncasecmp(line, prefix, n) == 0 &&
           (len == n || isspace((unsigned char) line[n]));
}

static void blank_out(char *text, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (text[i] != '\n')
            text[i] = ' ';
}

static bool other_tool(const char *file, int line, const char *tool, struct error *err)
{
    error_set(err, ERR_MIGRATION, "%s:%d: the file is written for %s", file, line, tool);
    return error_hint(
        err,
        "Run %s itself with the playbook's [migrations] command =, or give the files the names "
        "and marks of Flyway, golang-migrate or dbmate.",
        tool);
}

/* dbmate: from "-- migrate:up" to "-- migrate:down"; the rest becomes blanks. */
static bool keep_up_section(struct script *s, const char *file, struct error *err)
{
    bool up = false;
    int line = 0;
    size_t up_begin = 0;
    size_t up_end = s->len;

    for (size_t at = 0, next; at < s->len; at = next) {
        const char *nl = memchr(s->text + at, '\n', s->len - at);
        size_t len = (nl ? (size_t) (nl - s->text) : s->len) - at;
        next = nl ? at + len + 1 : s->len;
        line++;
        const char *p = s->text + at;
        if (line_starts(p, len, "-- +goose"))
            return other_tool(file, line, "goose", err);
        if (line_starts(p, len, "-- +migrate"))
            return other_tool(file, line, "sql-migrate", err);
        if (line_starts(p, len, "-- migrate:down")) {
            if (!up)
                return error_set(err, ERR_MIGRATION,
                                 "%s:%d: \"-- migrate:down\" without \"-- migrate:up\" before it",
                                 file, line);
            up_end = at;
            break;
        }
        if (!line_starts(p, len, "-- migrate:up"))
            continue;
        if (up)
            return error_set(err, ERR_MIGRATION, "%s:%d: a second \"-- migrate:up\"", file, line);
        up = true;
        up_begin = at;
        s->marked_no_transaction = memmem(p, len, "transaction:false", 17) != NULL;
    }
    s->sections = up;
    if (up) {
        blank_out(s->text, 0, up_begin);
        blank_out(s->text, up_end, s->len);
    }
    return true;
}

/* "-- pgcutover:no-transaction" before the first statement */
static bool has_mark(const char *text, size_t end)
{
    for (size_t at = 0; at < end;) {
        size_t eol = at;
        while (eol < end && text[eol] != '\n')
            eol++;
        while (at < eol && isspace((unsigned char) text[at]))
            at++;
        size_t len = eol - at;
        if (len > 2 && text[at] == '-' && text[at + 1] == '-') {
            at += 2;
            while (at < eol && text[at] == ' ')
                at++;
            if (line_starts(text + at, eol - at, "pgcutover:no-transaction"))
                return true;
        }
        at = eol + 1;
    }
    return false;
}

static bool add_statement(struct script *s, const char *file, size_t begin, size_t end,
                          struct error *err)
{
    begin = skip_blank(s->text, begin, end);
    while (end > begin && isspace((unsigned char) s->text[end - 1]))
        end--;
    if (begin == end)
        return true;
    struct statement *st = VEC_ADD(s->items, s->n, s->cap);
    st->offset = begin;
    st->len = end - begin;
    sha256_hex(s->text + begin, st->len, st->checksum);
    if (!statement_classify(st, s->text, err)) {
        st->line = script_line(s->text, begin);
        char message[sizeof err->message];
        memcpy(message, err->message, sizeof message);
        error_set(err, ERR_MIGRATION, "%s:%d: %s", file, st->line, message);
        copy_advice(err);
        return false;
    }
    s->own_transactions |= st->kind == STATEMENT_TRANSACTION;
    s->must_be_alone |= st->kind == STATEMENT_ALONE || st->kind == STATEMENT_INDEX_ALONE ||
                        st->kind == STATEMENT_COMMITS;
    return true;
}

static void number_lines(struct script *s)
{
    size_t at = 0;
    int line = 1;
    for (size_t i = 0; i < s->n; i++) {
        for (; at < s->items[i].offset; at++)
            line += s->text[at] == '\n';
        s->items[i].line = line;
    }
}

static bool split(struct script *s, const char *file, struct error *err)
{
    PgQuerySplitResult r = pg_query_split_with_parser(s->text);
    bool ok = !r.error;

    if (r.error)
        syntax_error(file, s->text, s->len, r.error, err);
    for (int i = 0; ok && i < r.n_stmts; i++) {
        size_t begin = (size_t) r.stmts[i]->stmt_location;
        /* RawStmt: "0 means rest of string" */
        size_t len = r.stmts[i]->stmt_len ? (size_t) r.stmts[i]->stmt_len : s->len - begin;
        ok = add_statement(s, file, begin, begin + len, err);
    }
    pg_query_free_split_result(r);
    return ok;
}

bool script_parse(struct script *out, const char *file, const char *text, size_t len, bool numbered,
                  struct error *err)
{
    memset(out, 0, sizeof *out);
    if (memchr(text, '\0', len)) {
        error_set(err, ERR_MIGRATION, "%s: the file holds zero bytes", file);
        return error_hint(err, "Save it as UTF-8; UTF-16 looks like this.");
    }
    out->text = xstrndup(text, len);
    out->len = len;
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        blank_out(out->text, 0, 3); /* a byte order mark */
    bool ok = (!numbered || keep_up_section(out, file, err)) && split(out, file, err);
    if (ok && out->n == 0) {
        error_set(err, ERR_MIGRATION, "%s: the file has no statement", file);
        ok = error_hint(err, "Delete the file, or write SELECT 1 when its number must stay.");
    }
    if (!ok) {
        script_release(out);
        return false;
    }
    number_lines(out);
    out->marked_no_transaction |= has_mark(out->text, out->items[0].offset);
    return true;
}

void script_release(struct script *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->items[i].index);
        free(s->items[i].table);
    }
    free(s->items);
    free(s->text);
    memset(s, 0, sizeof *s);
}

void script_excerpt(const struct script *s, const struct statement *st, size_t max,
                    struct strbuf *out)
{
    const char *p = s->text + st->offset;
    size_t n = 0;
    bool blank = false;

    for (size_t i = 0; i < st->len; i++) {
        if (isspace((unsigned char) p[i])) {
            blank = true;
            continue;
        }
        bool starts = ((unsigned char) p[i] & 0xc0) != 0x80;
        if (starts && n + (blank ? 1u : 0u) >= max) {
            strbuf_addstr(out, "...");
            return;
        }
        if (blank) {
            strbuf_addch(out, ' ');
            n++;
        }
        blank = false;
        n += starts;
        strbuf_addch(out, p[i]);
    }
}
