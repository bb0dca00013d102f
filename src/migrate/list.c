/* list.c - which files of a directory are migrations, in which order. */
#include "migrate/migrate.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <ctype.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

enum scheme { SCHEME_NONE, SCHEME_FLYWAY, SCHEME_GOLANG, SCHEME_NUMBERED };

static const char *const scheme_names[] = {"", "Flyway's (V1__name.sql)",
                                           "golang-migrate's (0001_name.up.sql)",
                                           "dbmate's (20260101120000_name.sql)"};

/* One file's name, taken apart. */
struct name {
    enum scheme scheme;
    bool passed_over; /* undo, down */
    bool repeatable;
    char *version;
    char *rest;
};

static bool ends_with(const char *s, const char *end)
{
    size_t a = strlen(s);
    size_t b = strlen(end);
    return a >= b && strcmp(s + a - b, end) == 0;
}

/* "1_2", "1.2" -> "1.2"; NULL when something else than digits and single separators is there */
static char *flyway_version(const char *p, size_t len)
{
    char *version = xstrndup(p, len);
    bool digit = false;
    for (size_t i = 0; i < len; i++) {
        if (isdigit((unsigned char) p[i])) {
            digit = true;
            continue;
        }
        if ((p[i] != '_' && p[i] != '.') || !digit) {
            free(version);
            return NULL;
        }
        version[i] = '.';
        digit = false;
    }
    if (!digit) {
        free(version);
        return NULL;
    }
    return version;
}

/* https://documentation.red-gate.com/flyway: prefix, version, two underscores, description, suffix
 */
static bool parse_flyway(const char *file, struct name *out)
{
    const char *separator = strstr(file, "__");
    if (!separator || !strchr("VUR", file[0]) || !ends_with(file, ".sql"))
        return false;
    const char *rest = separator + 2;
    size_t rest_len = strlen(rest) - 4;
    out->scheme = SCHEME_FLYWAY;
    out->repeatable = file[0] == 'R';
    out->passed_over = file[0] == 'U';
    if (out->repeatable && separator == file + 1)
        out->version = xstrndup(file, strlen(file) - 4);
    else if (!out->repeatable)
        out->version = flyway_version(file + 1, (size_t) (separator - file) - 1);
    if (!out->version)
        return false;
    out->rest = xstrndup(rest, rest_len);
    return true;
}

static bool parse_numbered(const char *file, struct name *out)
{
    size_t digits = strspn(file, "0123456789");
    if (digits == 0 || !ends_with(file, ".sql") || !strchr("_-.", file[digits]))
        return false;
    const char *suffix = ends_with(file, ".up.sql")     ? ".up.sql"
                         : ends_with(file, ".down.sql") ? ".down.sql"
                                                        : ".sql";
    size_t begin = digits + (file[digits] != '.');
    size_t end = strlen(file) - strlen(suffix);
    out->scheme = strcmp(suffix, ".sql") == 0 ? SCHEME_NUMBERED : SCHEME_GOLANG;
    out->passed_over = strcmp(suffix, ".down.sql") == 0;
    out->version = xstrndup(file, digits);
    out->rest = xstrndup(file + begin, end > begin ? end - begin : 0);
    return true;
}

static void name_release(struct name *n)
{
    free(n->version);
    free(n->rest);
}

static int compare_digits(const char *a, size_t alen, const char *b, size_t blen)
{
    for (; alen > 0 && *a == '0'; alen--)
        a++;
    for (; blen > 0 && *b == '0'; blen--)
        b++;
    if (alen != blen)
        return alen < blen ? -1 : 1;
    int rc = memcmp(a, b, alen);
    return rc < 0 ? -1 : rc > 0;
}

int migrate_compare_versions(const char *a, const char *b)
{
    bool repeatable_a = a[0] == 'R';
    bool repeatable_b = b[0] == 'R';
    if (repeatable_a || repeatable_b)
        return repeatable_a && repeatable_b ? strcmp(a, b)
                                            : (int) repeatable_a - (int) repeatable_b;
    while (*a || *b) {
        size_t alen = strcspn(a, ".");
        size_t blen = strcspn(b, ".");
        int rc = compare_digits(a, alen, b, blen);
        if (rc != 0)
            return rc;
        a += alen + (a[alen] == '.');
        b += blen + (b[blen] == '.');
    }
    return 0;
}

static int compare_items(const void *a, const void *b)
{
    const struct migration *x = a;
    const struct migration *y = b;
    int rc = migrate_compare_versions(x->version, y->version);
    return rc ? rc : strcmp(x->file, y->file);
}

static bool read_file(const struct migration *m, struct strbuf *text, struct error *err)
{
    if (!file_read(m->path, text, MIGRATE_FILE_CEILING, err))
        return error_push(err, "%s", m->file);
    return true;
}

/* Flyway's script configuration, V1__a.sql.conf */
static bool read_flyway_conf(struct migration *m, struct error *err)
{
    char *path = xstrfmt("%s.conf", m->path);
    struct strbuf text = {0};
    bool ok = !file_exists(path) || file_read(path, &text, 1 << 20, err);
    const char *key = ok ? strstr(strbuf_cstr(&text), "executeInTransaction=") : NULL;
    if (key && strncasecmp(key + strlen("executeInTransaction="), "false", 5) == 0)
        m->no_transaction = true;
    strbuf_release(&text);
    free(path);
    return ok;
}

static bool inspect(struct migration *m, bool *sections, struct error *err)
{
    struct strbuf text = {0};
    struct script script = {0};
    bool ok = read_flyway_conf(m, err) && read_file(m, &text, err) &&
              script_parse(&script, m->file, strbuf_cstr(&text), text.len, m->numbered, err);
    if (ok) {
        sha256_hex(strbuf_cstr(&text), text.len, m->checksum);
        m->own_transactions = script.own_transactions;
        m->no_transaction |=
            script.marked_no_transaction || script.must_be_alone || script.own_transactions;
        m->nstatements = script.n;
        *sections = script.sections;
    }
    script_release(&script);
    strbuf_release(&text);
    return ok;
}

bool migrate_load(const struct migration *m, struct script *out, struct error *err)
{
    struct strbuf text = {0};
    char now[SHA256_HEX_SIZE];
    bool ok = read_file(m, &text, err);
    if (ok) {
        sha256_hex(strbuf_cstr(&text), text.len, now);
        ok =
            strcmp(now, m->checksum) == 0 ||
            error_set(err, ERR_MIGRATION, "%s: the file was changed while the run was on", m->path);
    }
    ok = ok && script_parse(out, m->file, strbuf_cstr(&text), text.len, m->numbered, err);
    strbuf_release(&text);
    return ok;
}

static bool no_scheme(const char *file, struct error *err)
{
    error_set(err, ERR_MIGRATION, "%s: the name fits none of the naming schemes", file);
    return error_hint(err,
                      "Name migrations V1__name.sql (Flyway), 0001_name.up.sql (golang-migrate) or "
                      "20260101120000_name.sql (dbmate), and keep other .sql files elsewhere.");
}

static bool refuse_code(const char *file, struct error *err)
{
    error_set(err, ERR_MIGRATION, "%s: a migration that isn't SQL", file);
    return error_hint(
        err, "Run the migrations with their own tool: the playbook's [migrations] command =.");
}

static bool refuse_subdirectory(const char *path, const char *file, struct error *err)
{
    char **names = NULL;
    size_t count = 0;
    bool ok = file_list(path, &names, &count, err);
    for (size_t i = 0; ok && i < count; i++) {
        if (!ends_with(names[i], ".sql"))
            continue;
        error_set(err, ERR_MIGRATION, "%s/%s: subdirectories aren't searched for migrations", file,
                  names[i]);
        ok = error_hint(
            err, "Put all files into one directory, or use the playbook's [migrations] command =.");
    }
    file_free_list(names);
    return ok;
}

static bool looks_like_code(const char *file)
{
    return file[0] == 'V' && strstr(file, "__") &&
           (ends_with(file, ".java") || ends_with(file, ".class") || ends_with(file, ".kt"));
}

static bool add_file(struct migration_list *l, const char *directory, const char *file,
                     enum scheme *seen, struct error *err)
{
    struct name name = {0};
    struct stat sb;
    char *path = xstrfmt("%s/%s", directory, file);
    bool sections = false;
    bool ok = true;

    if (stat(path, &sb) == 0 && S_ISDIR(sb.st_mode)) {
        ok = refuse_subdirectory(path, file, err);
        goto out;
    }
    if (looks_like_code(file)) {
        ok = refuse_code(file, err);
        goto out;
    }
    if (!ends_with(file, ".sql"))
        goto out;
    if (!parse_flyway(file, &name)) {
        name_release(&name);
        name = (struct name){0};
        if (!parse_numbered(file, &name)) {
            ok = no_scheme(file, err);
            goto out;
        }
    }
    if (*seen != SCHEME_NONE && *seen != name.scheme) {
        error_set(err, ERR_MIGRATION, "%s: named in %s scheme, the files before it in %s", file,
                  scheme_names[name.scheme], scheme_names[*seen]);
        ok = error_hint(err, "Keep the files of one tool in one directory.");
        goto out;
    }
    *seen = name.scheme;
    if (name.passed_over)
        goto out;
    struct migration *m = VEC_ADD(l->items, l->n, l->cap);
    m->version = name.version;
    m->name = name.rest;
    m->path = path;
    m->file = xstrdup(file);
    m->repeatable = name.repeatable;
    m->numbered = name.scheme != SCHEME_FLYWAY;
    name = (struct name){0};
    path = NULL;
    ok = inspect(m, &sections, err);
    if (ok && sections && *seen == SCHEME_GOLANG)
        ok = error_set(err, ERR_MIGRATION,
                       "%s: dbmate's \"-- migrate:up\" in a file named for golang-migrate", file);
out:
    name_release(&name);
    free(path);
    return ok;
}

static bool check_twice(const struct migration_list *l, struct error *err)
{
    for (size_t i = 1; i < l->n; i++) {
        const struct migration *a = &l->items[i - 1];
        const struct migration *b = &l->items[i];
        if (migrate_compare_versions(a->version, b->version) != 0)
            continue;
        error_set(err, ERR_MIGRATION, "%s and %s have the same version, %s", a->file, b->file,
                  b->version);
        return error_hint(err, "Give one of them another number.");
    }
    return true;
}

bool migrate_list(const char *directory, struct migration_list *out, struct error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum scheme seen = SCHEME_NONE;
    bool ok;

    memset(out, 0, sizeof *out);
    ok = file_list(directory, &names, &count, err);
    for (size_t i = 0; ok && i < count; i++)
        ok = add_file(out, directory, names[i], &seen, err);
    file_free_list(names);
    if (ok && out->n == 0) {
        error_set(err, ERR_MIGRATION, "\"%s\" has no migrations", directory);
        ok = error_hint(err, "Check the playbook's [migrations] directory =, or take it out.");
    }
    if (ok) {
        qsort(out->items, out->n, sizeof *out->items, compare_items);
        ok = check_twice(out, err);
    }
    if (!ok)
        migrate_list_release(out);
    return ok;
}

void migrate_list_release(struct migration_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        struct migration *m = &l->items[i];
        free(m->version);
        free(m->name);
        free(m->path);
        free(m->file);
    }
    free(l->items);
    memset(l, 0, sizeof *l);
}

bool migrate_describe(const struct migration_list *l, struct strbuf *out, struct error *err)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct migration *m = &l->items[i];
        struct script script = {0};
        if (!migrate_load(m, &script, err))
            return false;
        if (m->no_transaction)
            strbuf_addf(out, "%s: not in a transaction of its own\n", m->file);
        for (size_t n = 0; n < script.n; n++) {
            strbuf_addf(out, "%s:%d: ", m->file, script.items[n].line);
            script_excerpt(&script, &script.items[n], 100, out);
            strbuf_addch(out, '\n');
        }
        script_release(&script);
    }
    return true;
}
