#include "run/journal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/wire.h"
#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define CRC_KEY ",\"crc\":\""
#define JOURNAL_CEILING ((size_t) 256 << 20)

struct journal {
    char *path;
    int fd; /* -1: read only */
    json_t *records;
    json_t *facts;
    bool relaxed;
    pthread_mutex_t mutex;
};

static void remember(struct journal *j, json_t *rec)
{
    const char *type = json_string_value(json_object_get(rec, "type"));

    json_array_append(j->records, rec);
    if (type && strcmp(type, "fact") == 0) {
        const char *key = json_string_value(json_object_get(rec, "key"));

        if (key)
            json_object_set(j->facts, key, json_object_get(rec, "value"));
    }
}

/* {"a":1,"crc":"0123abcd"}: the CRC is over the object without that last member. */
static json_t *parse_line(const char *line, size_t len)
{
    const size_t tail = strlen(CRC_KEY) + 8 + 2;
    struct strbuf body = {0};
    json_t *rec = NULL;

    if (len <= tail || strncmp(line + len - tail, CRC_KEY, strlen(CRC_KEY)) != 0)
        return NULL;
    strbuf_add(&body, line, len - tail);
    strbuf_addch(&body, '}');
    char want[9];
    snprintf(want, sizeof want, "%08" PRIx32, crc32c(0, body.data, body.len));
    if (strncmp(line + len - 10, want, 8) == 0)
        rec = json_loadb(body.data, body.len, 0, NULL);
    strbuf_release(&body);
    return rec;
}

static bool load(struct journal *j, size_t *good, struct error *err)
{
    struct strbuf text = {0};
    size_t at = 0;
    bool ok = true;

    *good = 0;
    if (!file_exists(j->path))
        return true;
    if (!file_read(j->path, &text, JOURNAL_CEILING, err))
        return false;
    while (ok && at < text.len) {
        const char *end = memchr(text.data + at, '\n', text.len - at);
        json_t *rec = end ? parse_line(text.data + at, (size_t) (end - text.data) - at) : NULL;

        if (rec) {
            remember(j, rec);
            json_decref(rec);
            at = (size_t) (end - text.data) + 1;
            *good = at;
        } else if (end && (size_t) (end - text.data) + 1 < text.len) {
            ok = error_set(err, ERR_IO, "%s is damaged at line %zu", j->path,
                           json_array_size(j->records) + 1);
            error_hint(
                err,
                "The run can't be resumed from this directory; `pgcutover repair` is not in this "
                "version: compare both servers by hand before you go on.");
        } else {
            break; /* a torn tail announced an act that never began */
        }
    }
    strbuf_release(&text);
    return ok;
}

static bool journal_new(struct journal **out, const char *dir, bool writable, struct error *err)
{
    struct journal *j = xcalloc(1, sizeof *j);
    size_t good = 0;

    j->path = xstrfmt("%s/journal.jsonl", dir);
    j->fd = -1;
    j->records = json_array();
    j->facts = json_object();
    pthread_mutex_init(&j->mutex, NULL);
    if (!load(j, &good, err))
        goto fail;
    if (writable) {
        j->fd = open(j->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (j->fd < 0 || ftruncate(j->fd, (off_t) good) != 0) {
            error_set_errno(err, errno, "could not open %s", j->path);
            goto fail;
        }
        if (!file_sync_dir(dir, err))
            goto fail;
    }
    *out = j;
    return true;
fail:
    journal_close(j);
    return false;
}

bool journal_open(struct journal **out, const char *dir, struct error *err)
{
    return journal_new(out, dir, true, err);
}

bool journal_read(struct journal **out, const char *dir, struct error *err)
{
    return journal_new(out, dir, false, err);
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        close(j->fd);
    json_decref(j->records);
    json_decref(j->facts);
    pthread_mutex_destroy(&j->mutex);
    free(j->path);
    free(j);
}

static bool append(struct journal *j, json_t *rec, struct error *err)
{
    char *body = json_dumps(rec, JSON_COMPACT);
    struct strbuf line = {0};
    bool ok;

    if (!body)
        BUG("journal record can't be written as JSON (not UTF-8?)");
    strbuf_add(&line, body, strlen(body) - 1);
    strbuf_addf(&line, CRC_KEY "%08" PRIx32 "\"}\n", crc32c(0, body, strlen(body)));
    ok = file_write_all(j->fd, line.data, line.len, j->path, err);
    if (ok && !j->relaxed && fdatasync(j->fd) != 0)
        ok = error_set_errno(err, errno, "could not fsync %s", j->path);
    free(body);
    strbuf_release(&line);
    return ok;
}

bool journal_add(struct journal *j, const char *type, json_t *rec, struct error *err)
{
    char at[CLOCK_ISO_SIZE];
    json_t *whole = json_object();
    bool ok;

    if (j->fd < 0)
        BUG("journal is read only");
    clock_iso(at, clock_wall_us());
    pthread_mutex_lock(&j->mutex);
    json_object_set_new(whole, "n", json_integer((json_int_t) json_array_size(j->records) + 1));
    json_object_set_new(whole, "at", json_string(at));
    json_object_set_new(whole, "type", json_string(type));
    if (rec) {
        json_object_update(whole, rec);
        json_decref(rec);
    }
    ok = FAULT("journal.before-write", err) && append(j, whole, err);
    if (ok)
        remember(j, whole);
    pthread_mutex_unlock(&j->mutex);
    json_decref(whole);
    return ok;
}

bool journal_relax(struct journal *j, bool on, struct error *err)
{
    bool was;

    pthread_mutex_lock(&j->mutex);
    was = j->relaxed;
    j->relaxed = on;
    pthread_mutex_unlock(&j->mutex);
    if (was && !on && fdatasync(j->fd) != 0)
        return error_set_errno(err, errno, "could not fsync %s", j->path);
    return true;
}

bool journal_fact(struct journal *j, const char *key, const char *value, struct error *err)
{
    const char *old = journal_get_fact(j, key);

    if (old && value && strcmp(old, value) == 0)
        return true;
    return journal_add(j, "fact", json_pack("{s:s, s:s?}", "key", key, "value", value), err);
}

const char *journal_get_fact(const struct journal *j, const char *key)
{
    return json_string_value(json_object_get(j->facts, key));
}

void journal_lock(struct journal *j)
{
    pthread_mutex_lock(&j->mutex);
}

void journal_unlock(struct journal *j)
{
    pthread_mutex_unlock(&j->mutex);
}

size_t journal_count(const struct journal *j)
{
    return json_array_size(j->records);
}

const json_t *journal_at(const struct journal *j, size_t i)
{
    return json_array_get(j->records, i);
}
