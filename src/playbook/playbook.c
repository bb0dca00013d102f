/*
 * playbook.c - loading a playbook, and its getters.
 */
#include "playbook/playbook_internal.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct playbook_section *playbook_find_section(const struct playbook *pb, const char *kind,
                                               const char *name)
{
    for (size_t i = 0; i < pb->nsections; i++) {
        struct playbook_section *s = pb->sections[i];
        if (strcmp(s->kind->name, kind) == 0 && strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

struct playbook_section *playbook_add_section(struct playbook *pb, const struct playbook_kind *kind,
                                              const char *name)
{
    struct playbook_section *s = xcalloc(1, sizeof *s);

    s->kind = kind;
    s->name = arena_strndup(pb->arena, name, strlen(name));
    s->given = true;
    *VEC_ADD(pb->sections, pb->nsections, pb->capsections) = s;
    return s;
}

struct playbook_entry *playbook_find_entry(const struct playbook_section *s, const char *key)
{
    for (size_t i = 0; i < s->nentries; i++) {
        if (strcmp(s->entries[i].key, key) == 0)
            return &s->entries[i];
    }
    return NULL;
}

/* ---- loading ---- */

static bool read_from_disk(const char *path, struct strbuf *out, struct error *err)
{
    return file_read(path, out, PLAYBOOK_VALUE_MAX + 4096, err);
}

static void add_defaults(struct playbook *pb)
{
    size_t n = 0;

    for (const struct playbook_kind *k = playbook_kinds; k->name; k++)
        n++;
    pb->defaults = xcalloc(n, sizeof *pb->defaults);
    for (size_t i = 0; i < n; i++) {
        pb->defaults[i].kind = &playbook_kinds[i];
        pb->defaults[i].name = arena_strndup(pb->arena, "", 0);
    }
}

/* The run's copy names the directory (base_dir), in lines of UTF-8. */
static bool check_dir(const char *dir, const char *label, struct error *err)
{
    size_t len = strlen(dir);

    if (*dir != '/' || playbook_utf8(dir, len) < len || strpbrk(dir, "\n\r") ||
        playbook_space(dir[len - 1]))
        return error_set(
            err, ERR_PLAYBOOK,
            "%s:1: the playbook's directory has a name that a playbook can't hold (not UTF-8, or "
            "with a line break, or a blank at its end)",
            label);
    return true;
}

bool playbook_load_texts(struct playbook **out, const struct playbook_input *in, struct error *err)
{
    struct playbook *pb = xcalloc(1, sizeof *pb);

    *out = NULL;
    pb->arena = arena_new(0);
    pb->path = arena_strndup(pb->arena, in->path, strlen(in->path));
    pb->dir = arena_strndup(pb->arena, in->dir, strlen(in->dir));
    pb->labels[PLAYBOOK_FROM_FILE] = in->file.label;
    pb->labels[PLAYBOOK_FROM_OVERLAY] = in->overlay.label;
    pb->read = in->read ? in->read : read_from_disk;
    add_defaults(pb);
    if (playbook_parse(pb, PLAYBOOK_FROM_FILE, &in->file) &&
        (!in->overlay.data || playbook_parse(pb, PLAYBOOK_FROM_OVERLAY, &in->overlay))) {
        playbook_apply_sets(pb, in->sets);
        playbook_resolve(pb);
    }
    if (!playbook_problems_none(pb, err) || !check_dir(pb->dir, in->file.label, err)) {
        playbook_free(pb);
        return false;
    }
    /* The caller's strings may go. */
    pb->labels[PLAYBOOK_FROM_FILE] = pb->labels[PLAYBOOK_FROM_OVERLAY] = NULL;
    *out = pb;
    return true;
}

/* What is said of a playbook that can't be read is about the playbook, not about the disk: exit
 * status 2. */
static bool read_playbook(const char *path, struct strbuf *out, struct error *err)
{
    struct error why = {0};

    strbuf_reserve(out, 1); /* an empty file has a text too */
    if (file_read(path, out, PLAYBOOK_FILE_MAX, &why))
        return true;
    return error_set(err, ERR_PLAYBOOK, "%s:1: can't read it: %s", path, why.message);
}

/* The directory, links followed; the name as given, so that paths start where the user pointed. */
static bool absolute_path(const char *path, char **dir, char **whole, struct error *err)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash == path ? xstrdup("/")
                   : slash       ? xstrndup(path, (size_t) (slash - path))
                                 : xstrdup(".");

    *dir = realpath(parent, NULL);
    free(parent);
    if (!*dir) {
        struct error why = {0};
        (void) error_set_errno(&why, errno, "can't find its directory");
        return error_set(err, ERR_PLAYBOOK, "%s:1: %s", path, why.message);
    }
    *whole = xstrfmt("%s/%s", strcmp(*dir, "/") == 0 ? "" : *dir, slash ? slash + 1 : path);
    return true;
}

bool playbook_load(struct playbook **out, const struct playbook_source *src, struct error *err)
{
    bool ok = false;
    char *dir = NULL;
    char *path = NULL;
    struct strbuf file = {0};
    struct strbuf overlay = {0};
    struct playbook_input in = {0};

    *out = NULL;
    if (!absolute_path(src->path, &dir, &path, err))
        goto out;
    if (!read_playbook(src->path, &file, err))
        goto out;
    if (src->overlay && !read_playbook(src->overlay, &overlay, err))
        goto out;
    in.path = path;
    in.dir = dir;
    in.file = (struct playbook_text){src->path, strbuf_cstr(&file), file.len};
    if (src->overlay)
        in.overlay = (struct playbook_text){src->overlay, strbuf_cstr(&overlay), overlay.len};
    in.sets = src->sets;
    ok = playbook_load_texts(out, &in, err);
out:
    strbuf_release(&file);
    strbuf_release(&overlay);
    free(path);
    free(dir);
    return ok;
}

void playbook_free(struct playbook *pb)
{
    if (!pb)
        return;
    for (size_t i = 0; i < pb->nsections; i++) {
        struct playbook_section *s = pb->sections[i];
        for (size_t j = 0; j < s->nentries; j++)
            strbuf_release(&s->entries[j].raw);
        free(s->entries);
        free(s);
    }
    for (size_t i = 0; i < pb->nproblems; i++) {
        free(pb->problems[i].text);
        free(pb->problems[i].hint);
    }
    free(pb->problems);
    free(pb->sections);
    free(pb->defaults);
    arena_free(pb->arena);
    free(pb);
}

/* ---- sections ---- */

const char *playbook_path(const struct playbook *pb)
{
    return pb->path;
}

const char *playbook_dir(const struct playbook *pb)
{
    return pb->dir;
}

static const struct playbook_kind *known_kind(const char *kind, bool single)
{
    const struct playbook_kind *k = playbook_find_kind(kind);

    if (!k || (k->naming == PLAYBOOK_SINGLE) != single)
        BUG("the playbook has no %s sections [%s]", single ? "single" : "named", kind);
    return k;
}

const struct playbook_section *playbook_section(const struct playbook *pb, const char *kind)
{
    const struct playbook_kind *k = known_kind(kind, true);
    const struct playbook_section *s = playbook_find_section(pb, kind, "");

    return s ? s : &pb->defaults[k - playbook_kinds];
}

size_t playbook_count(const struct playbook *pb, const char *kind)
{
    const struct playbook_kind *k = known_kind(kind, false);
    size_t n = 0;

    for (size_t i = 0; i < pb->nsections; i++)
        n += pb->sections[i]->kind == k;
    return n;
}

const struct playbook_section *playbook_at(const struct playbook *pb, const char *kind, size_t i)
{
    const struct playbook_kind *k = known_kind(kind, false);

    for (size_t j = 0; j < pb->nsections; j++) {
        if (pb->sections[j]->kind == k && i-- == 0)
            return pb->sections[j];
    }
    BUG("the playbook has not that many sections [%s]", kind);
}

const char *playbook_section_name(const struct playbook_section *s)
{
    return s->name;
}

int playbook_section_line(const struct playbook_section *s)
{
    return s->line;
}

bool playbook_section_given(const struct playbook_section *s)
{
    return s->given;
}

/* ---- values ---- */

static const struct playbook_key *known_key(const struct playbook_section *s, const char *key)
{
    const struct playbook_key *k = playbook_find_key(s->kind->name, key);

    if (!k)
        BUG("the playbook has no key \"%s\" in [%s]", key, s->kind->name);
    return k;
}

const char *playbook_str(const struct playbook_section *s, const char *key)
{
    const struct playbook_key *k = known_key(s, key);
    const struct playbook_entry *e = playbook_find_entry(s, key);

    return e && e->text ? e->text : k->def;
}

static int64_t number(const struct playbook_section *s, const char *key, enum playbook_type type)
{
    const struct playbook_key *k = known_key(s, key);
    const struct playbook_entry *e = playbook_find_entry(s, key);
    struct strbuf why = {0};
    int64_t num = 0;

    if (k->type != type)
        BUG("key \"%s\" of [%s] is a %s, not a %s", key, s->kind->name, playbook_type_name(k->type),
            playbook_type_name(type));
    if (e && e->text)
        return e->num;
    if (k->def && !playbook_value_parse(k, k->def, &num, &why))
        BUG("the default of \"%s\" in [%s] %s", key, s->kind->name, strbuf_cstr(&why));
    return num;
}

int64_t playbook_int(const struct playbook_section *s, const char *key)
{
    return number(s, key, PLAYBOOK_INT);
}

bool playbook_bool(const struct playbook_section *s, const char *key)
{
    return number(s, key, PLAYBOOK_BOOL) != 0;
}

int64_t playbook_us(const struct playbook_section *s, const char *key)
{
    return number(s, key, PLAYBOOK_DURATION);
}

int64_t playbook_bytes(const struct playbook_section *s, const char *key)
{
    return number(s, key, PLAYBOOK_BYTES);
}

bool playbook_given(const struct playbook_section *s, const char *key)
{
    const struct playbook_entry *e = playbook_find_entry(s, key);

    (void) known_key(s, key);
    return e && e->text;
}

const char *const *playbook_list(const struct playbook_section *s, const char *key)
{
    const struct playbook_entry *e = playbook_find_entry(s, key);

    if (known_key(s, key)->type != PLAYBOOK_LIST)
        BUG("key \"%s\" of [%s] is no list", key, s->kind->name);
    return e ? e->list : NULL;
}

bool playbook_prefixed(const struct playbook_section *s, const char *prefix, size_t i,
                       const char **tail, const char **value)
{
    for (size_t j = 0; j < s->nentries; j++) {
        const struct playbook_entry *e = &s->entries[j];
        if (!playbook_is_prefix(e->spec) || strcmp(e->spec->key, prefix) != 0 || !e->text)
            continue;
        if (i-- == 0) {
            *tail = e->key + strlen(prefix);
            *value = e->text;
            return true;
        }
    }
    return false;
}
