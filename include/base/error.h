/*
 * error.h - the one way a failure travels up.
 *
 * A function that can fail returns bool and fills the caller's struct error. It is a plain value:
 * zero-initialise it, pass it down, read it in cmd/, which is the only place that reports it.
 * Nothing to free. Strings are cut at their field's size, never overrun.
 *
 * Message: lower case, no full stop, with names and numbers. Hint: a sentence with the next action.
 * Context is pushed on the way up (step, table, key, LSN). Never put a secret into any of them.
 */
#ifndef PGCUTOVER_BASE_ERROR_H
#define PGCUTOVER_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* code, name in JSON and logs, exit status of the program (DESIGN: 0 done, 1 failed, 2 usage, 3
 * no-go, 4 stopped and resumable, 5 operator needed) */
#define ERROR_CODES(X)                                                                             \
    X(ERR_NONE, "none", 0)                                                                         \
    X(ERR_USAGE, "usage", 2)         /* bad command line */                                        \
    X(ERR_PLAYBOOK, "playbook", 2)   /* bad playbook */                                            \
    X(ERR_CONNECT, "connect", 1)     /* a server could not be reached or refused us */             \
    X(ERR_SQL, "sql", 1)             /* a statement failed; sqlstate is set */                     \
    X(ERR_PROTOCOL, "protocol", 1)   /* bytes from outside that make no sense */                   \
    X(ERR_IO, "io", 1)               /* file system */                                             \
    X(ERR_FULL, "full", 1)           /* disk or spool limit reached */                             \
    X(ERR_CHILD, "child", 1)         /* a child process failed */                                  \
    X(ERR_TIMEOUT, "timeout", 1)     /* a deadline passed */                                       \
    X(ERR_CONFLICT, "conflict", 1)   /* replay met a row that should not be, or missed one */      \
    X(ERR_MIGRATION, "migration", 1) /* a migration file failed */                                 \
    X(ERR_TRAFFIC, "traffic", 1)     /* a traffic driver refused or disagreed */                   \
    X(ERR_NOGO, "no-go", 3)          /* check, proof, verification, threshold or gate said no */   \
    X(ERR_BUDGET, "budget", 3)       /* the pause overran its budget and was undone */             \
    X(ERR_VOID, "void", 3)           /* the clone can't be used any more (slot lost, failover) */  \
    X(ERR_LOCKED, "locked", 3)       /* another run holds the pair or the directory */             \
    X(ERR_STOPPED, "stopped", 4)     /* asked to stop; can be resumed */                           \
    X(ERR_OPERATOR, "operator", 5)   /* could not prove which side serves */                       \
    X(ERR_INTERNAL, "internal", 1)   /* our own bug */

enum error_code {
#define X(code, name, status) code,
    ERROR_CODES(X)
#undef X
};

struct error {
    enum error_code code;
    char sqlstate[6];
    char message[1024];
    char detail[2048];
    char hint[1024];
    char context[512];
};

/* Fill err (replacing what it held). Always returns false, so that "return error_set(...)" reads
 * well. */
bool error_set(struct error *err, enum error_code code, const char *fmt, ...) PRINTF(3, 4);
/* As error_set, with strerror(errno_value) appended; ENOSPC and EDQUOT become ERR_FULL. */
bool error_set_errno(struct error *err, int errno_value, const char *fmt, ...) PRINTF(3, 4);
/* Replace detail or hint; put "context: " in front of the context. They leave code and message
 * alone. Each returns false. */
bool error_detail(struct error *err, const char *fmt, ...) PRINTF(2, 3);
bool error_hint(struct error *err, const char *fmt, ...) PRINTF(2, 3);
bool error_push(struct error *err, const char *fmt, ...) PRINTF(2, 3);
void error_clear(struct error *err);

const char *error_code_name(enum error_code code);
int error_exit_status(enum error_code code);

/* A defect of ours: prints file, line and text to stderr and aborts. */
#define BUG(...) error_bug(__FILE__, __LINE__, __VA_ARGS__)
void error_bug(const char *file, int line, const char *fmt, ...) PRINTF(3, 4)
    __attribute__((noreturn));

#endif
