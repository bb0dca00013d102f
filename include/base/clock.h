/*
 * clock.h - time. Durations and deadlines are microseconds of CLOCK_MONOTONIC; CLOCK_NONE means "no
 * deadline". Wall time is for people and the journal only.
 */
#ifndef PGCUTOVER_BASE_CLOCK_H
#define PGCUTOVER_BASE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOCK_NONE INT64_MAX

int64_t clock_us(void);
int64_t clock_in_ms(int64_t ms); /* the deadline ms from now */
bool clock_passed(int64_t deadline_us);
int clock_poll_ms(
    int64_t deadline_us);    /* for poll(2): -1 none, 0 passed, rounded up, at most 1 h */
void clock_sleep_ms(int ms); /* between polls; wakes early on a signal */
int64_t clock_wall_us(void); /* since the Unix epoch */
/* "2026-11-20T02:14:07.123Z" */
#define CLOCK_ISO_SIZE 32
void clock_iso(char buf[CLOCK_ISO_SIZE], int64_t wall_us);
/* "1h 02m", "3m 07s", "4.2 s", "13 ms" */
#define CLOCK_HUMAN_SIZE 32
void clock_human(char buf[CLOCK_HUMAN_SIZE], int64_t us);

#endif
