/*
 * process.h - child processes by argv, never a shell string (the playbook's own commands go through
 * process_shell, the one exception). Children get no descriptors but 0, 1, 2 and are in a process
 * group of their own; a stop request or the deadline ends the group (TERM, after 5 s KILL). Their
 * stdin is /dev/null. A daemon that a command leaves behind must have its output redirected: the
 * pipe ends with the command.
 */
#ifndef PGCUTOVER_SYS_PROCESS_H
#define PGCUTOVER_SYS_PROCESS_H

#include "base/strbuf.h"

#include <stdint.h>
#include <sys/types.h>

struct process_options {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH */
    const char *const *env;  /* NAME=value, NULL-terminated, laid over ours; or NULL */
    const char *cwd;         /* or NULL */
    const char *log_path;    /* append stderr (and stdout, when out is NULL) here; or NULL */
    struct strbuf *out;  /* collects stdout when not NULL; what is past out_ceiling is dropped */
    size_t out_ceiling;  /* 0: 1 MB */
    int64_t deadline_us; /* a monotonic deadline; CLOCK_NONE or 0: none */
    bool ignore_stop;    /* go on although a stop was requested (undo) */
    /* called about four times a second while the child runs; or NULL */
    void (*tick)(void *ctx);
    void *ctx;
};

/* Runs and waits. True when the child exited with status 0. Otherwise ERR_CHILD with program, exit
 * status or signal, and the last lines of its stderr as detail; ERR_TIMEOUT; ERR_STOPPED. */
bool process_run(const struct process_options *opts, struct error *err) WARN_UNUSED;

/* As process_run with argv = /bin/sh -c command. opts->argv is not looked at. */
bool process_shell(const char *command, const struct process_options *opts,
                   struct error *err) WARN_UNUSED;

/* The path of a client tool, newest first: $PGCUTOVER_BINDIR, /usr/lib/postgresql/NN/bin (NN >=
 * min_major), then PATH. Caller frees. ERR_CHILD with the package to install when there is none. */
bool process_find_pg_tool(const char *tool, int min_major, char **path,
                          struct error *err) WARN_UNUSED;

#endif
