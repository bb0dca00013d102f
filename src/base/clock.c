#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define US_PER_SEC INT64_C(1000000)
#define US_PER_MIN (60 * US_PER_SEC)
#define US_PER_HOUR (60 * US_PER_MIN)

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t) ts.tv_sec * US_PER_SEC + ts.tv_nsec / 1000;
}

int64_t clock_us(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

int64_t clock_in_ms(int64_t ms)
{
    int64_t us;
    int64_t deadline;
    if (__builtin_mul_overflow(ms, INT64_C(1000), &us) ||
        __builtin_add_overflow(clock_us(), us, &deadline))
        return CLOCK_NONE;
    return deadline;
}

bool clock_passed(int64_t deadline_us)
{
    return deadline_us != CLOCK_NONE && clock_us() >= deadline_us;
}

int clock_poll_ms(int64_t deadline_us)
{
    if (deadline_us == CLOCK_NONE)
        return -1;
    int64_t left = deadline_us - clock_us();
    if (left <= 0)
        return 0;
    if (left > US_PER_HOUR)
        left = US_PER_HOUR;
    return (int) ((left + 999) / 1000);
}

void clock_sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long) (ms % 1000) * 1000000L};
    if (ms > 0)
        nanosleep(&ts, NULL);
}

int64_t clock_wall_us(void)
{
    return read_clock(CLOCK_REALTIME);
}

void clock_iso(char buf[CLOCK_ISO_SIZE], int64_t wall_us)
{
    int64_t ms = (wall_us % US_PER_SEC) / 1000;
    time_t sec = (time_t) (wall_us / US_PER_SEC);
    struct tm tm;

    if (wall_us % US_PER_SEC < 0) {
        sec--;
        ms = (wall_us % US_PER_SEC + US_PER_SEC) / 1000;
    }
    if (!gmtime_r(&sec, &tm)) {
        snprintf(buf, CLOCK_ISO_SIZE, "?");
        return;
    }
    size_t len = strftime(buf, CLOCK_ISO_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buf + len, CLOCK_ISO_SIZE - len, ".%03dZ", (int) ms);
}

void clock_human(char buf[CLOCK_HUMAN_SIZE], int64_t us)
{
    const char *sign = us < 0 ? "-" : "";
    int64_t n = us == INT64_MIN ? INT64_MAX : us < 0 ? -us : us;
    int64_t sec = n / US_PER_SEC + (n % US_PER_SEC >= US_PER_SEC / 2);

    if (n > 0 && n < 1000)
        snprintf(buf, CLOCK_HUMAN_SIZE, "%s%.1f ms", sign, (double) n / 1000);
    else if (n < US_PER_SEC)
        snprintf(buf, CLOCK_HUMAN_SIZE, "%s%" PRId64 " ms", sign, n / 1000);
    else if (n < US_PER_MIN - US_PER_SEC / 20) /* from there on it would show as 60.0 s */
        snprintf(buf, CLOCK_HUMAN_SIZE, "%s%.1f s", sign, (double) n / US_PER_SEC);
    else if (sec < 3600)
        snprintf(buf, CLOCK_HUMAN_SIZE, "%s%" PRId64 "m %02" PRId64 "s", sign, sec / 60, sec % 60);
    else
        snprintf(buf, CLOCK_HUMAN_SIZE, "%s%" PRId64 "h %02" PRId64 "m", sign, sec / 3600,
                 sec % 3600 / 60);
}
