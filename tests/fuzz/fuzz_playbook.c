/*
 * Any bytes as a playbook: no crash, errors of the right kind, and what playbook_write makes of a
 * good one is read as the same. The bytes are three texts, parted by lines of "--": the playbook,
 * an overlay, one --set.
 *     clang -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined -iquote include \
 *         tests/fuzz/fuzz_playbook.c src/base/[a-z]*.c src/sys/[a-z]*.c src/playbook/[a-z]*.c
 * -linih -pthread
 */
#include "base/alloc.h"
#include "playbook/playbook_internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* No file of this machine is read. */
static bool read_nothing(const char *path, struct strbuf *out, struct error *err)
{
    if (strstr(path, "missing"))
        return error_set(err, ERR_IO, "could not open it");
    strbuf_addstr(out, "text of a file\n");
    return true;
}

/* Cuts the next text off; NULL at the end. */
static char *next_text(const char **at, const char *end, size_t *len)
{
    if (!*at)
        return NULL;
    const char *cut = memmem(*at, (size_t) (end - *at), "\n--\n", 4);
    *len = (size_t) ((cut ? cut : end) - *at);
    char *text = xmalloc(*len + 1);
    memcpy(text, *at, *len);
    text[*len] = '\0';
    *at = cut ? cut + 4 : NULL;
    return text;
}

static void round_trip(const struct playbook *pb)
{
    struct strbuf first = {0};
    struct strbuf second = {0};
    struct playbook *copy;
    struct error err = {0};

    playbook_write(pb, &first);
    struct playbook_input in = {
        .path = playbook_path(pb),
        .dir = "/elsewhere",
        .file = {"copy.ini", first.data, first.len},
        .read = read_nothing,
    };
    if (!playbook_load_texts(&copy, &in, &err))
        BUG("the copy is refused: %s", err.message);
    playbook_write(copy, &second);
    if (first.len != second.len || memcmp(first.data, second.data, first.len) != 0)
        BUG("the copy's copy differs");
    playbook_free(copy);
    strbuf_release(&first);
    strbuf_release(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *at = (const char *) data;
    const char *end = at + size;
    size_t len[3] = {0};
    char *text[3];
    struct playbook *pb;
    struct error err = {0};

    setenv("A", "value", 1);
    if (size == 0)
        return 0;
    for (int i = 0; i < 3; i++)
        text[i] = next_text(&at, end, &len[i]);
    struct playbook_input in = {
        .path = "/books/fuzz.ini",
        .dir = "/books",
        .file = {"fuzz.ini", text[0], len[0]},
        .overlay = {"overlay.ini", text[1], len[1]},
        .sets = (const char *const[]){text[2], NULL},
        .read = read_nothing,
    };
    if (playbook_load_texts(&pb, &in, &err)) {
        round_trip(pb);
        playbook_free(pb);
    } else if (err.code != ERR_PLAYBOOK || !err.message[0]) {
        BUG("an error of another kind: %s", err.message);
    }
    for (int i = 0; i < 3; i++)
        free(text[i]);
    return 0;
}
