/*
 * rundir.h - the directory of one run, and finding it. The base directory is --dir, PGCUTOVER_DIR
 * or ./runs; a RUN argument is a name in it or a path. flock on <dir>/lock says that a process
 * works on the run.
 */
#ifndef PGCUTOVER_RUN_RUNDIR_H
#define PGCUTOVER_RUN_RUNDIR_H

#include "run/journal.h"

struct rundir {
    char *path;  /* absolute */
    char *name;  /* the run's name: last part of the path */
    int lock_fd; /* -1: not locked */
};

char *rundir_base(const char *option); /* caller frees */

/* Makes <base>/<name>, or <base>/<name>-2 and so on when runs of that name have ended; one that has
 * not ended is ERR_LOCKED with the command that takes it up again. Locked on return. */
bool rundir_create(struct rundir *out, const char *base, const char *name,
                   struct error *err) WARN_UNUSED;
/* arg NULL: the only run that has not ended (ERR_USAGE when there are none or several, naming
 * them). Not locked. */
bool rundir_find(struct rundir *out, const char *base, const char *arg,
                 struct error *err) WARN_UNUSED;
bool rundir_lock(struct rundir *d,
                 struct error *err) WARN_UNUSED; /* ERR_LOCKED: another process works on it */
void rundir_release(struct rundir *d);
char *rundir_file(const struct rundir *d, const char *name); /* caller frees */

/* How a run ended: "finished", "aborted", "rolled-back", or NULL while it has not. */
const char *rundir_ended(const struct journal *j);
bool rundir_end(struct journal *j, const char *how, struct error *err) WARN_UNUSED;

#endif
