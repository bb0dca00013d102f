#include "base/human.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

const char *human_bytes(char buf[HUMAN_SIZE], int64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double) bytes;
    size_t unit = 0;

    if (bytes > -1000 && bytes < 1000) {
        snprintf(buf, HUMAN_SIZE, "%" PRId64 " B", bytes);
        return buf;
    }
    value /= 1000;
    /* 999.95 would be printed as 1000.0 */
    while ((value >= 999.95 || value <= -999.95) && unit < 5) {
        value /= 1000;
        unit++;
    }
    snprintf(buf, HUMAN_SIZE, "%.1f %s", value, units[unit]);
    return buf;
}

const char *human_count(char buf[HUMAN_SIZE], int64_t n)
{
    char digits[HUMAN_SIZE];
    size_t len = (size_t) snprintf(digits, sizeof digits, "%" PRId64, n);
    size_t sign = n < 0;
    size_t out = 0;

    for (size_t i = 0; i < len && out < HUMAN_SIZE - 2; i++) {
        if (i > sign && (len - i) % 3 == 0)
            buf[out++] = ',';
        buf[out++] = digits[i];
    }
    buf[out] = '\0';
    return buf;
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Optimal string alignment: insert, delete, replace, or swap two neighbours. Rows are kept for i,
 * i-1, i-2. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t la = strlen(a);
    size_t lb = strlen(b);
    size_t width = lb + 1;
    size_t *rows = xcalloc(3 * width, sizeof *rows);
    size_t *cur = rows;
    size_t *prev = rows + width;
    size_t *before = rows + 2 * width;

    for (size_t j = 0; j <= lb; j++)
        cur[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *oldest = before;
        before = prev;
        prev = cur;
        cur = oldest;
        cur[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            cur[j] = min3(prev[j] + 1, cur[j - 1] + 1, prev[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < cur[j])
                cur[j] = before[j - 2] + 1;
        }
    }
    size_t distance = cur[lb];
    free(rows);
    return distance;
}

const char *human_nearest(const char *word, const char *const *names)
{
    const char *nearest = NULL;
    size_t best = SIZE_MAX;

    for (; *names; names++) {
        size_t lw = strlen(word);
        size_t ln = strlen(*names);
        size_t longer = lw > ln ? lw : ln;
        size_t distance = edit_distance(word, *names);
        if (distance * 3 <= longer && distance < best) {
            best = distance;
            nearest = *names;
        }
    }
    return nearest;
}
