/*
 * pgbouncer_note.c - FILE.pgcutover.lock, beside the file of aliases: held by the one run that
 * drives this PgBouncer, and the note of what prepare found, so that a process that comes after a
 * crash can put it back. Best effort: without `file` there is neither.
 *
 * The guard process of the same run writes here while the run has the lock; both write the same.
 */
#include "private.h"

#include "base/alloc.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOTE_CEILING ((size_t) 65536)

static char *note_path(const struct pgbouncer *b)
{
    return xstrfmt("%s.pgcutover.lock", b->file);
}

/* "key = value" of one line; caller frees. */
static char *note_value(const char *text, const char *key)
{
    size_t len = strlen(key);

    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (strncmp(p, key, len) == 0 && strncmp(p + len, " = ", 3) == 0)
            return xstrndup(p + len + 3, strcspn(p + len + 3, "\n"));
    return NULL;
}

static bool note_is(const char *text, const char *key, const char *value)
{
    char *found = note_value(text, key);
    bool is = found && strcmp(found, value) == 0;
    free(found);
    return is;
}

static void take_retries(struct pgbouncer *b, const char *text)
{
    for (size_t i = 0; i < b->npoolers; i++) {
        struct pooler *p = &b->poolers[i];
        char *key = xstrfmt("server_login_retry.%zu", i + 1);
        char *value = note_value(text, key);

        /* it goes into a command */
        if (value && value[0] && strspn(value, "0123456789.") == strlen(value)) {
            free(p->login_retry);
            p->login_retry = value;
        } else {
            free(value);
        }
        free(key);
    }
}

void note_load(struct pgbouncer *b)
{
    struct strbuf sb = {0};
    struct error ignored = {0};
    char *path;

    if (!b->file)
        return;
    path = note_path(b);
    if (file_exists(path) && file_read(path, &sb, NOTE_CEILING, &ignored)) {
        const char *text = strbuf_cstr(&sb);
        take_retries(b, text);
        if (note_is(text, "new_database_paused", "no"))
            b->new_was_paused = 0;
        else if (note_is(text, "new_database_paused", "yes"))
            b->new_was_paused = 1;
        if (note_is(text, "serves", "blue"))
            b->noted = TRAFFIC_BLUE;
        else if (note_is(text, "serves", "green"))
            b->noted = TRAFFIC_GREEN;
    }
    free(path);
    strbuf_release(&sb);
}

static bool held_by_another(const char *path, const char *run, struct error *err)
{
    struct strbuf sb = {0};
    struct error ignored = {0};
    char *holder =
        file_read(path, &sb, NOTE_CEILING, &ignored) ? note_value(strbuf_cstr(&sb), "run") : NULL;
    bool ours = holder && strcmp(holder, run) == 0;

    if (!ours) {
        error_set(err, ERR_LOCKED, "this PgBouncer is being driven by %s%s (\"%s\" is locked)",
                  holder ? "run " : "another run", holder ? holder : "", path);
        error_hint(err, "Wait for the other run's end, or stop it.");
    }
    free(holder);
    strbuf_release(&sb);
    return !ours;
}

bool note_lock(struct pgbouncer *b, struct error *err)
{
    const char *run = b->t->context.run ? b->t->context.run : "-";
    struct error why = {0};
    char *path;
    bool ok = true;

    if (!b->file || b->lock_fd >= 0)
        return true;
    path = note_path(b);
    if (!file_lock(path, &b->lock_fd, &why)) {
        b->lock_fd = -1;
        if (why.code == ERR_LOCKED)
            ok = !held_by_another(path, run, err);
        else if (bouncer_two(b)) /* the file itself isn't written */
            event_warn("traffic %s: no lock against a second run: %s", traffic_name(b->t),
                       why.message);
        else {
            *err = why;
            ok = error_hint(err, "The directory must be writable for us: the file of aliases is "
                                 "replaced there.");
        }
    }
    free(path);
    return ok;
}

static void write_note(const struct pgbouncer *b, struct strbuf *sb)
{
    strbuf_addstr(sb, "# what pgcutover found here; goes when its run is over\n");
    strbuf_addf(sb, "run = %s\n", b->t->context.run ? b->t->context.run : "-");
    for (size_t i = 0; i < b->npoolers; i++)
        if (b->poolers[i].login_retry)
            strbuf_addf(sb, "server_login_retry.%zu = %s\n", i + 1, b->poolers[i].login_retry);
    if (b->new_was_paused >= 0)
        strbuf_addf(sb, "new_database_paused = %s\n", b->new_was_paused ? "yes" : "no");
    if (traffic_real_side(b->noted))
        strbuf_addf(sb, "serves = %s\n", traffic_side_name(b->noted));
}

/* In place, since another inode would not be locked. */
static bool put_note(const char *path, const struct strbuf *sb, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok;

    if (fd < 0)
        return error_set_errno(err, errno, "could not open \"%s\"", path);
    ok = pwrite(fd, sb->data, sb->len, 0) == (ssize_t) sb->len &&
         ftruncate(fd, (off_t) sb->len) == 0 && fsync(fd) == 0;
    if (!ok)
        error_set_errno(err, errno, "could not write \"%s\"", path);
    close(fd);
    return ok;
}

bool note_save(const struct pgbouncer *b, struct error *err)
{
    struct strbuf sb = {0};
    char *path;
    bool ok = true;

    if (!b->file)
        return true;
    path = note_path(b);
    if (file_exists(path)) {
        write_note(b, &sb);
        ok = put_note(path, &sb, err);
    }
    free(path);
    strbuf_release(&sb);
    return ok;
}

void note_remove(struct pgbouncer *b)
{
    if (b->file) {
        char *path = note_path(b);
        unlink(path);
        free(path);
    }
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    b->lock_fd = -1;
}
