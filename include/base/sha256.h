/* sha256.h - SHA-256 (FIPS 180-4), for checksums of migration files. Nothing secret depends on it.
 */
#ifndef PGCUTOVER_BASE_SHA256_H
#define PGCUTOVER_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE 32
#define SHA256_HEX_SIZE 65

void sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]);
/* Lower-case hexadecimal digits and a NUL. */
void sha256_hex(const void *data, size_t len, char out[SHA256_HEX_SIZE]);

#endif
