/* private.h - what the files of src/migrate share while migrations run. */
#ifndef PGCUTOVER_MIGRATE_PRIVATE_H
#define PGCUTOVER_MIGRATE_PRIVATE_H

#include "migrate/migrate.h"

struct watch;

struct applied {
    char *version;
    char *file;
    char *checksum;
};

/* One migration session: it holds the advisory lock, and everything runs in it. */
struct session {
    struct pg *pg;
    const struct migrate_options *o;
    char *history; /* the history table, quoted */
    struct applied *applied;
    size_t napplied, capapplied;
    struct watch *watch;
    int log_fd; /* -1: none */
    /* what the notice receiver and the log tell about */
    const char *file;
    int line;
    int64_t done, total; /* statements, of this call */
};

/* history.c */
bool migrate_lock(struct session *s, struct error *err) WARN_UNUSED;
bool history_install(struct session *s, struct error *err) WARN_UNUSED;
bool history_read(struct session *s, struct error *err) WARN_UNUSED;
const struct applied *history_find(const struct session *s, const char *version);
/* Checksums of applied files; versions below the newest applied one. */
bool history_check(const struct session *s, const struct migration_list *l,
                   struct error *err) WARN_UNUSED;
/* In the open transaction: the row, and what resume.c kept goes. */
bool history_add(struct session *s, const struct migration *m, int64_t elapsed_us,
                 struct error *err) WARN_UNUSED;
void history_release(struct session *s);

/* send.c */
struct answer {
    int64_t rows;
    char tag[64];
    int line; /* of an error, within the statement, from 1; 0: not known */
};
bool migrate_send(struct session *s, const char *sql, struct answer *out,
                  struct error *err) WARN_UNUSED;

/* statement.c */
bool statement_log_open(struct session *s, struct error *err) WARN_UNUSED;
void statement_log_close(struct session *s);
/* Sends it and logs it; the error has file, line and text. */
bool statement_run(struct session *s, const struct migration *m, const struct script *script,
                   size_t n, struct error *err) WARN_UNUSED;
/* COMMIT; deferred constraints speak up there. */
bool statement_commit(struct session *s, const struct migration *m, int line,
                      struct error *err) WARN_UNUSED;

/* resume.c: files that are recorded statement by statement */
/* How many statements at the beginning were finished in an earlier try (they must be the same
 * still). */
bool resume_point(struct session *s, const struct migration *m, const struct script *script,
                  size_t *finished, struct error *err) WARN_UNUSED;
bool resume_run_alone(struct session *s, const struct migration *m, const struct script *script,
                      struct error *err) WARN_UNUSED;
/* The session-level SETs among the first n, said again. */
bool resume_settings(struct session *s, const struct migration *m, const struct script *script,
                     size_t n, struct error *err) WARN_UNUSED;

/* watch.c: progress of index builds, from a session and thread of its own; never fails a migration
 */
struct watch *watch_start(const struct migrate_options *o, int pid);
void watch_set(struct watch *w, const char *what); /* NULL: nothing runs */
void watch_stop(struct watch *w);

#endif
