/*
 * cmd.h - the command table and what the commands share. Only cmd/ knows the terminal: it parses
 * options, reports the one error that came up, and says the last three lines.
 */
#ifndef PGCUTOVER_CMD_H
#define PGCUTOVER_CMD_H

#include "steps/steps.h"

#define PGCUTOVER_VERSION "0.1"

/* Options; a command accepts those in its mask. */
enum {
    OPT_YES = 1 << 0,
    OPT_JSON = 1 << 1,
    OPT_UNTIL = 1 << 2,
    OPT_PAUSE_AFTER = 1 << 3,
    OPT_PLAYBOOK = 1 << 4, /* --set, --overlay */
    OPT_WATCH = 1 << 5,
    OPT_KEEP_CLONE = 1 << 6,
    OPT_LOSE_WRITES = 1 << 7,
    OPT_NEW_PLAYBOOK = 1 << 8,
    OPT_UNFENCE = 1 << 9,
    OPT_FORMAT = 1 << 10
};

struct options {
    const char *dir;
    bool yes, json, watch, keep_clone, lose_writes, unfence_blue, quiet;
    const char *until, *pause_after, *overlay, *playbook, *format;
    const char **sets;
    size_t nsets, capsets;
    char **args; /* what is no option */
    int nargs;
};

struct command {
    const char *name;
    const char *args; /* "PLAYBOOK", "[RUN]" ... */
    int min_args, max_args;
    unsigned options;
    const char *summary;
    const char *help; /* paragraphs after the usage line, with an example; NULL hides the command */
    int (*run)(const struct options *o);
};

extern const struct command commands[];

int cmd_check(const struct options *o);
int cmd_plan(const struct options *o);
int cmd_map(const struct options *o);
int cmd_rehearse(const struct options *o);
int cmd_run(const struct options *o);
int cmd_resume(const struct options *o);
int cmd_status(const struct options *o);
int cmd_control(const struct options *o);
int cmd_verify(const struct options *o);
int cmd_abort(const struct options *o);
int cmd_rollback(const struct options *o);
int cmd_finish(const struct options *o);
int cmd_list(const struct options *o);
int cmd_reference(const struct options *o);
int cmd_guard_process(const struct options *o);

/* Prints the error (message, detail, hint) on stderr, or as JSON on stdout; returns the exit
 * status. */
int report_error(const struct options *o, const struct error *err);
/* The last words of every command about a run; on stdout unless --json. */
void report_lines(const struct options *o, const struct cutover *c);

bool load_playbook(const struct options *o, const char *path, struct playbook **out,
                   struct error *err) WARN_UNUSED;
/* Opens an existing run: its directory, its playbook (or --playbook), its journal; locked when it
 * is to be worked on. */
bool open_run(const struct options *o, const char *arg, bool work, struct cutover *c,
              struct error *err) WARN_UNUSED;

/* A working session over a run: signals, screen, control socket, keeper. */
bool session_begin(const struct options *o, struct cutover *c, const struct step *steps,
                   const struct engine_ops *ops, struct error *err) WARN_UNUSED;
void session_end(struct cutover *c);
/* Runs the steps and handles an abort that was asked for meanwhile. */
bool session_run(struct cutover *c, bool *aborted, struct error *err) WARN_UNUSED;

#endif
