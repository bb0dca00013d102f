/*
 * wire.h - bounds-checked big-endian readers over bytes from outside, and writers into a strbuf.
 * A reader that would run past its end sets failed and returns zero values from then on; check
 * failed once at the end of a message. No allocation: strings and byte runs point into the input.
 */
#ifndef PGCUTOVER_BASE_WIRE_H
#define PGCUTOVER_BASE_WIRE_H

#include "base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct wire {
    const unsigned char *p;
    const unsigned char *end;
    bool failed;
};

struct wire wire_over(const void *data, size_t len);
size_t wire_left(const struct wire *w);
uint8_t wire_u8(struct wire *w);
uint16_t wire_u16(struct wire *w);
uint32_t wire_u32(struct wire *w);
uint64_t wire_u64(struct wire *w);
const char *wire_cstr(struct wire *w);                       /* "" on failure; NUL must be inside */
const unsigned char *wire_bytes(struct wire *w, size_t len); /* NULL on failure */

void wire_put_u8(struct strbuf *sb, uint8_t v);
void wire_put_u16(struct strbuf *sb, uint16_t v);
void wire_put_u32(struct strbuf *sb, uint32_t v);
void wire_put_u64(struct strbuf *sb, uint64_t v);

uint32_t crc32c(uint32_t crc, const void *data, size_t len); /* start with 0 */

#endif
