/* private.h - what the files of src/clone share. */
#ifndef PGCUTOVER_CLONE_PRIVATE_H
#define PGCUTOVER_CLONE_PRIVATE_H

#include "clone/archive.h"

/* One of pg_dump, pg_restore; its environment carries all of the connection but nothing of it is in
 * argv. */
struct tool {
    char *path;
    char **connection; /* from pg_child_env, owned */
    const char **env;  /* connection, with ours laid over it */
    char *options;     /* PGOPTIONS=... */
    char *application; /* PGAPPNAME=... */
    char *jobs;        /* --jobs=N */
};
bool tool_find(struct tool *t, const char *name, const char *worker, const char *settings,
               const struct archive_options *o, struct error *err) WARN_UNUSED;
void tool_release(struct tool *t);
/* "disk is full" of a tool, in our own terms. Returns false. */
bool tool_failed(struct error *err);

/* restore_list.c */
struct restore_list {
    size_t entries; /* to be restored */
    size_t left_out;
    struct strbuf text;
};
/* What of `pg_restore -l` is to be restored: all but our own guard, fence triggers and schema. */
void restore_list_filter(struct restore_list *out, const char *listing);

/* restore_progress.c */
struct restore_progress {
    const struct archive_options *o;
    int64_t log_at; /* how far the log was read */
    size_t finished, entries;
    int64_t bytes, total_bytes;
    char current[200];
    int ticks;
    struct strbuf partial; /* the last line of the log, unfinished */
};
void restore_progress_tick(void *ctx);
void restore_progress_release(struct restore_progress *p);
/* Makes of the tool's last words an error that names the entry and the server's reason. Returns
 * false. */
bool restore_explain(const struct archive_options *o, int64_t log_from, struct error *err);

/* analyze.c */
bool clone_analyze(const struct archive_options *o, struct error *err) WARN_UNUSED;

#endif
