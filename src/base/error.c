#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copies what fits, cut between UTF-8 characters: the fields go into JSON, which takes no half
 * ones. */
static void copy_cut(char *field, size_t size, const char *text)
{
    size_t len = strlen(text);
    if (len >= size) {
        len = size - 1;
        while (len > 0 && ((unsigned char) text[len] & 0xc0) == 0x80)
            len--;
    }
    memcpy(field, text, len);
    field[len] = '\0';
}

/* Formats into a buffer of its own first: the arguments may be fields of the error that is written.
 */
static void put(char *field, size_t size, const char *fmt, va_list ap) PRINTF(3, 0);
static void put(char *field, size_t size, const char *fmt, va_list ap)
{
    char text[4096];
    vsnprintf(text, sizeof text, fmt, ap);
    copy_cut(field, size, text);
}

/* Appends ": cause" to a message, or nothing when there's no room for any of it. */
static void append_cause(char *message, size_t size, const char *cause)
{
    size_t len = strlen(message);
    if (len + 3 >= size)
        return;
    memcpy(message + len, ": ", 2);
    copy_cut(message + len + 2, size - len - 2, cause);
}

static void replace(struct error *err, enum error_code code, const char *fmt, va_list ap)
    PRINTF(3, 0);
static void replace(struct error *err, enum error_code code, const char *fmt, va_list ap)
{
    char message[sizeof err->message];
    put(message, sizeof message, fmt, ap);
    error_clear(err);
    err->code = code;
    memcpy(err->message, message, strlen(message) + 1);
}

bool error_set(struct error *err, enum error_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    replace(err, code, fmt, ap);
    va_end(ap);
    return false;
}

bool error_set_errno(struct error *err, int errno_value, const char *fmt, ...)
{
    enum error_code code = errno_value == ENOSPC || errno_value == EDQUOT ? ERR_FULL : ERR_IO;
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    replace(err, code, fmt, ap);
    va_end(ap);
    append_cause(err->message, sizeof err->message, strerror_r(errno_value, text, sizeof text));
    return false;
}

bool error_detail(struct error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(err->detail, sizeof err->detail, fmt, ap);
    va_end(ap);
    return false;
}

bool error_hint(struct error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(err->hint, sizeof err->hint, fmt, ap);
    va_end(ap);
    return false;
}

bool error_push(struct error *err, const char *fmt, ...)
{
    char outer[sizeof err->context];
    char inner[sizeof err->context];
    va_list ap;

    va_start(ap, fmt);
    put(outer, sizeof outer, fmt, ap);
    va_end(ap);
    memcpy(inner, err->context, sizeof inner);
    memcpy(err->context, outer, sizeof outer);
    if (inner[0])
        append_cause(err->context, sizeof err->context, inner);
    return false;
}

void error_clear(struct error *err)
{
    memset(err, 0, sizeof *err);
}

static const struct {
    const char *name;
    int status;
} codes[] = {
#define X(code, name, status) [code] = {name, status},
    ERROR_CODES(X)
#undef X
};

const char *error_code_name(enum error_code code)
{
    return codes[code].name;
}

int error_exit_status(enum error_code code)
{
    return codes[code].status;
}

void error_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "pgcutover: BUG at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}
