/*
 * archive.h - clone by pg_dump -Fd and pg_restore (method = archive). Their own parallelism and
 * ordering are used; what is ours: the snapshot, what is left out, progress, and clear errors.
 * Connection secrets go by environment. A server-to-server method will stand beside this with the
 * same two calls.
 */
#ifndef PGCUTOVER_CLONE_ARCHIVE_H
#define PGCUTOVER_CLONE_ARCHIVE_H

#include "pg/catalog.h"

struct archive_options {
    const char *conninfo; /* of the side worked on */
    const char *dbname;   /* or NULL */
    const char *run;
    const char *snapshot; /* dump: exported snapshot */
    const char *encoding; /* dump: blue's own, or NULL */
    const char *dir;      /* the archive: made as dir.part, renamed when whole */
    const char *log_path; /* the tools' stderr */
    int jobs;
    bool compress;       /* false: way station, -Z0 (measured 2.9 times faster on the whole) */
    int server_version;  /* the tools must be at least this new */
    int64_t total_bytes; /* dump: blue's table bytes, for progress */
    struct pg *watch;    /* restore: a session on green for progress and ANALYZE */
};

/* True when dir holds a whole archive. */
bool archive_exists(const char *dir);
bool archive_dump(const struct archive_options *o, struct error *err) WARN_UNUSED;
/* Restores all but our own guard and schema; then ANALYZE by vacuumdb-like parallel sessions
 * (jobs). */
bool archive_restore(const struct archive_options *o, struct error *err) WARN_UNUSED;

#endif
