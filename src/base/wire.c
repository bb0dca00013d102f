#include "base/wire.h"

#include <pthread.h>
#include <string.h>

struct wire wire_over(const void *data, size_t len)
{
    const unsigned char *p = data ? data : (const unsigned char *) "";
    return (struct wire){.p = p, .end = p + (data ? len : 0), .failed = !data && len > 0};
}

size_t wire_left(const struct wire *w)
{
    return (size_t) (w->end - w->p);
}

/* Also steps to the end on failure, so that loops over what is left end. */
const unsigned char *wire_bytes(struct wire *w, size_t len)
{
    if (w->failed || wire_left(w) < len) {
        w->failed = true;
        w->p = w->end;
        return NULL;
    }
    const unsigned char *at = w->p;
    w->p += len;
    return at;
}

static uint64_t big_endian(struct wire *w, size_t len)
{
    const unsigned char *at = wire_bytes(w, len);
    uint64_t v = 0;
    for (size_t i = 0; at && i < len; i++)
        v = v << 8 | at[i];
    return v;
}

uint8_t wire_u8(struct wire *w)
{
    return (uint8_t) big_endian(w, 1);
}

uint16_t wire_u16(struct wire *w)
{
    return (uint16_t) big_endian(w, 2);
}

uint32_t wire_u32(struct wire *w)
{
    return (uint32_t) big_endian(w, 4);
}

uint64_t wire_u64(struct wire *w)
{
    return big_endian(w, 8);
}

const char *wire_cstr(struct wire *w)
{
    size_t left = wire_left(w);
    const unsigned char *nul = left > 0 ? memchr(w->p, '\0', left) : NULL;
    const unsigned char *s = wire_bytes(w, nul ? (size_t) (nul - w->p) + 1 : left + 1);
    return s ? (const char *) s : "";
}

static void put_big_endian(struct strbuf *sb, uint64_t v, size_t len)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char) (v >> (8 * (len - 1 - i)));
    strbuf_add(sb, bytes, len);
}

void wire_put_u8(struct strbuf *sb, uint8_t v)
{
    put_big_endian(sb, v, 1);
}

void wire_put_u16(struct strbuf *sb, uint16_t v)
{
    put_big_endian(sb, v, 2);
}

void wire_put_u32(struct strbuf *sb, uint32_t v)
{
    put_big_endian(sb, v, 4);
}

void wire_put_u64(struct strbuf *sb, uint64_t v)
{
    put_big_endian(sb, v, 8);
}

/* CRC-32C (Castagnoli), reflected, eight bytes a step ("slicing by 8"). */
static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78U : c >> 1;
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 0xff];
}

static uint32_t crc_eight(uint32_t c, const unsigned char *p)
{
    c ^= (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
    return crc_table[7][c & 0xff] ^ crc_table[6][c >> 8 & 0xff] ^ crc_table[5][c >> 16 & 0xff] ^
           crc_table[4][c >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^
           crc_table[0][p[7]];
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    const unsigned char *p = data;
    uint32_t c = ~crc;

    pthread_once(&crc_once, crc_fill);
    for (; len >= 8; p += 8, len -= 8)
        c = crc_eight(c, p);
    for (; len > 0; p++, len--)
        c = c >> 8 ^ crc_table[0][(c ^ *p) & 0xff];
    return ~c;
}
