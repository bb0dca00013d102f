/*
 * value.c - the text of a value to what it means. Nothing here knows files or sections.
 */
#include "playbook/playbook_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    int64_t factor;
};

static const struct unit duration_units[] = {
    {"ms", 1000},
    {"s", 1000000},
    {"m", INT64_C(60) * 1000000},
    {"h", INT64_C(3600) * 1000000},
    {"d", INT64_C(86400) * 1000000},
    {NULL, 0},
};

static const struct unit byte_units[] = {
    {"", 1},
    {"B", 1},
    {"kB", INT64_C(1) << 10},
    {"MB", INT64_C(1) << 20},
    {"GB", INT64_C(1) << 30},
    {"TB", INT64_C(1) << 40},
    {NULL, 0},
};

static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

bool playbook_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Digits, perhaps blanks, a unit. What overflows is no number. */
static bool parse_number(const char *text, const struct unit *units, int64_t *num)
{
    bool negative = *text == '-';
    const char *p = text + (negative ? 1 : 0);
    int64_t n = 0;

    if (*p < '0' || *p > '9')
        return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return false;
    }
    if (units == duration_units && n == 0 && *p == '\0') {
        *num = 0;
        return true;
    }
    while (*p == ' ')
        p++;
    for (const struct unit *u = units; u->name; u++) {
        if (strcasecmp(u->name, p) == 0) {
            *num = negative ? -n : n;
            return !__builtin_mul_overflow(*num, u->factor, num);
        }
    }
    return false;
}

static bool parse_bool(const char *text, int64_t *num)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(words[i], text) == 0) {
            *num = (int64_t) (i % 2);
            return true;
        }
    }
    return false;
}

/* The number of a bound in the table. */
static int64_t bound(const char *text, const struct unit *units, int64_t without)
{
    int64_t num = without;

    if (text && !parse_number(text, units, &num))
        BUG("bad bound \"%s\" in the key table", text);
    return num;
}

static bool parse_in_range(const struct playbook_key *key, const char *text,
                           const struct unit *units, int64_t *num, struct strbuf *why)
{
    if (!parse_number(text, units, num)) {
        strbuf_addf(why, "is not a %s, such as %s", playbook_type_name(key->type),
                    playbook_example(key));
        return false;
    }
    if (*num >= bound(key->min, units, 0) && *num <= bound(key->max, units, INT64_MAX))
        return true;
    strbuf_addf(why, "is out of range: at least %s", key->min ? key->min : "0");
    if (key->max)
        strbuf_addf(why, ", at most %s", key->max);
    return false;
}

static bool word_in(const char *words, const char *text, size_t len)
{
    for (const char *w = words; w && *w;) {
        size_t n = strcspn(w, "|");
        if (n == len && strncmp(w, text, n) == 0)
            return true;
        w += n + (w[n] == '|' ? 1 : 0);
    }
    return false;
}

static void add_words(struct strbuf *out, const char *words)
{
    for (; *words; words++) {
        if (*words == '|')
            strbuf_addstr(out, ", ");
        else
            strbuf_addch(out, *words);
    }
}

static bool parse_enum(const struct playbook_key *key, const char *text, struct strbuf *why)
{
    if (word_in(key->values, text, strlen(text)))
        return true;
    if (word_in(key->later, text, strlen(text)))
        strbuf_addstr(why, "is not available in this version, which has only ");
    else
        strbuf_addf(why, "is not %s", strchr(key->values, '|') ? "one of " : "");
    add_words(why, key->values);
    return false;
}

/* Items stand between commas and line breaks, but not those inside double quotes. */
size_t playbook_list_item(const char **at, const char **item)
{
    const char *p = *at;
    bool quoted = false;

    while (playbook_space(*p))
        p++;
    *item = p;
    for (; *p && (quoted || (*p != ',' && *p != '\n')); p++) {
        if (*p == '"')
            quoted = !quoted;
    }
    size_t len = (size_t) (p - *item);
    while (len > 0 && playbook_space((*item)[len - 1]))
        len--;
    *at = *p ? p + 1 : NULL;
    return len;
}

static bool check_list(const struct playbook_key *key, const char *text, struct strbuf *why)
{
    const char *item;

    for (const char *at = text; at;) {
        size_t len = playbook_list_item(&at, &item);
        if (len == 0) {
            strbuf_addf(why, "has an empty item; write it like %s", playbook_example(key));
            return false;
        }
        if (key->values && !word_in(key->values, item, len)) {
            strbuf_addstr(why, "is not a list of ");
            add_words(why, key->values);
            return false;
        }
    }
    return true;
}

/* libpq takes it apart later; what it would take for a plain database name is caught here. */
static bool check_conninfo(const char *text)
{
    return strncmp(text, "postgres://", 11) == 0 || strncmp(text, "postgresql://", 13) == 0 ||
           (strchr(text, '=') && *text != '=');
}

/* The name goes into slot names, which take a-z, 0-9 and _, and no more than 63 bytes. */
static bool check_name(const char *text)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return text[len] == '\0' && len >= 1 && len <= 40;
}

static bool time_of_day(const char *p)
{
    bool digits = strspn(p, "0123456789") == 2 && p[2] == ':' && strspn(p + 3, "0123456789") == 2;
    return digits && (p[0] - '0') * 10 + (p[1] - '0') < 24 && p[3] < '6';
}

static bool check_window(const char *text)
{
    return strlen(text) == 11 && time_of_day(text) && text[5] == '-' && time_of_day(text + 6) &&
           strncmp(text, text + 6, 5) != 0;
}

static bool no_good(const struct playbook_key *key, struct strbuf *why)
{
    strbuf_addf(why, "is not a %s, such as %s", playbook_type_name(key->type),
                playbook_example(key));
    return false;
}

bool playbook_value_parse(const struct playbook_key *key, const char *text, int64_t *num,
                          struct strbuf *why)
{
    *num = 0;
    switch (key->type) {
    case PLAYBOOK_INT:
        return parse_in_range(key, text, no_units, num, why);
    case PLAYBOOK_DURATION:
        return parse_in_range(key, text, duration_units, num, why);
    case PLAYBOOK_BYTES:
        return parse_in_range(key, text, byte_units, num, why);
    case PLAYBOOK_BOOL:
        if (parse_bool(text, num))
            return true;
        strbuf_addstr(why, "is not yes or no");
        return false;
    case PLAYBOOK_ENUM:
        return parse_enum(key, text, why);
    case PLAYBOOK_LIST:
        return check_list(key, text, why);
    case PLAYBOOK_CONNINFO:
        return check_conninfo(text) || no_good(key, why);
    case PLAYBOOK_NAME:
        if (check_name(text))
            return true;
        strbuf_addstr(why, "is not 1 to 40 of a-z, 0-9, _ and -, such as shop-v42");
        return false;
    case PLAYBOOK_WINDOW:
        return check_window(text) || no_good(key, why);
    case PLAYBOOK_PATH:
        if (!strchr(text, '\n'))
            return true;
        strbuf_addstr(why, "is a path of several lines");
        return false;
    case PLAYBOOK_STR:
    case PLAYBOOK_COMMAND:
    case PLAYBOOK_EXPRESSION:
        return true;
    }
    BUG("type %d of a playbook key", (int) key->type);
}

const char *playbook_type_name(enum playbook_type type)
{
    static const char *const names[] = {
        [PLAYBOOK_STR] = "text",
        [PLAYBOOK_INT] = "whole number",
        [PLAYBOOK_BOOL] = "yes or no",
        [PLAYBOOK_DURATION] = "duration",
        [PLAYBOOK_BYTES] = "size",
        [PLAYBOOK_ENUM] = "word",
        [PLAYBOOK_LIST] = "list",
        [PLAYBOOK_PATH] = "path",
        [PLAYBOOK_CONNINFO] = "connection string",
        [PLAYBOOK_COMMAND] = "shell command",
        [PLAYBOOK_EXPRESSION] = "SQL expression",
        [PLAYBOOK_NAME] = "name",
        [PLAYBOOK_WINDOW] = "time window",
    };
    return names[type];
}

const char *playbook_example(const struct playbook_key *key)
{
    bool usable = key->def && strcmp(key->def, "0") != 0;

    switch (key->type) {
    case PLAYBOOK_INT:
        return usable ? key->def : key->min ? key->min : "4";
    case PLAYBOOK_DURATION:
        return usable ? key->def : "30s";
    case PLAYBOOK_BYTES:
        return usable ? key->def : "64MB";
    case PLAYBOOK_LIST:
        return key->values ? "before-hold, before-open" : "id, created_at";
    case PLAYBOOK_CONNINFO:
        return "host=db1 dbname=shop user=pgcutover";
    case PLAYBOOK_WINDOW:
        return "02:00-04:00";
    case PLAYBOOK_NAME:
        return "shop-v42";
    case PLAYBOOK_COMMAND:
        return "systemctl restart shop";
    default:
        return key->def ? key->def : "";
    }
}

/* RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF. */
size_t playbook_utf8(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *) text;
    size_t i = 0;

    while (i < len) {
        unsigned char c = s[i];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        if (c >= 0x80 && (c < 0xc2 || c > 0xf4))
            return i;
        if (len - i <= more)
            return i;
        for (size_t j = 1; j <= more; j++) {
            if ((s[i + j] & 0xc0) != 0x80)
                return i;
        }
        if ((c == 0xe0 && s[i + 1] < 0xa0) || (c == 0xed && s[i + 1] > 0x9f) ||
            (c == 0xf0 && s[i + 1] < 0x90) || (c == 0xf4 && s[i + 1] > 0x8f))
            return i;
        i += more + 1;
    }
    return len;
}
