#include "base/lsn.h"

#include <inttypes.h>
#include <stdio.h>

const char *lsn_str(char buf[LSN_SIZE], lsn_t lsn)
{
    snprintf(buf, LSN_SIZE, "%" PRIX32 "/%" PRIX32, (uint32_t) (lsn >> 32), (uint32_t) lsn);
    return buf;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* One half: one to eight digits, as pg_lsn_in() takes it. */
static const char *parse_half(const char *p, uint32_t *half)
{
    int digits = 0;
    *half = 0;
    for (; hex_digit(*p) >= 0; p++, digits++) {
        if (digits == 8)
            return NULL;
        *half = *half << 4 | (uint32_t) hex_digit(*p);
    }
    return digits > 0 ? p : NULL;
}

bool lsn_parse(const char *text, lsn_t *out)
{
    uint32_t high;
    uint32_t low;
    const char *p = parse_half(text, &high);
    if (!p || *p != '/')
        return false;
    p = parse_half(p + 1, &low);
    if (!p || *p)
        return false;
    *out = (lsn_t) high << 32 | low;
    return true;
}
