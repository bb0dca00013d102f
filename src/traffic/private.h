/*
 * private.h - what the files of src/traffic share and nobody else sees.
 *
 *     driver.c             the registry, and what is the same for every driver
 *     command.c            shell commands
 *     pgbouncer.c          PgBouncer: the verbs
 *     pgbouncer_prepare.c  what must be so before the pause
 *     pgbouncer_pause.c    PAUSE and its proof, RESUME, server_login_retry
 *     pgbouncer_side.c     which side the aliases point at, and which are held
 *     pgbouncer_show.c     what PgBouncer says of itself, and who still is in a transaction
 *     pgbouncer_file.c     the file of aliases: one line changed, the rest byte for byte
 *     pgbouncer_note.c     the lock and the note beside that file
 *     pgbouncer_admin.c    one connection to an admin console
 */
#ifndef PGCUTOVER_TRAFFIC_PRIVATE_H
#define PGCUTOVER_TRAFFIC_PRIVATE_H

#include "traffic/driver.h"

#include "base/event.h"

extern const struct traffic_ops traffic_command;
extern const struct traffic_ops traffic_pgbouncer;

/* "blue", "green"; NULL for a side that can't be switched to. */
const char *traffic_real_side(enum traffic_side side);

/* ---- pgbouncer_admin.c ---- */

/*
 * One connection to an admin console. It knows the simple protocol only, one command at a time
 * (TRAPS 46), and no startup options. Connects when it is first needed and again when it was lost;
 * every command of ours may be given twice. Errors are ERR_TRAFFIC or ERR_STOPPED.
 */
struct console;

/* How to wait: patient goes on connecting until the deadline, else a refusal ends it at once. */
struct patience {
    int64_t deadline_us;
    bool patient;
    bool stoppable;
};

enum answer { ANSWER_PENDING, ANSWER_READY, ANSWER_LOST };

struct console *console_new(const char *conninfo, const char *run);
void console_free(struct console *c);
const char *console_where(const struct console *c); /* "host:port/pgbouncer" */
bool console_connect(struct console *c, const struct patience *how, struct error *err) WARN_UNUSED;
void console_disconnect(struct console *c);
/* One command and its answer; *out may be NULL, else the caller PQclears it. */
bool console_command(struct console *c, const struct patience *how, const char *command,
                     PGresult **out, struct error *err) WARN_UNUSED;
/* In two halves, for a PAUSE that takes long: after start, take until it isn't ANSWER_PENDING. */
bool console_start(struct console *c, const struct patience *how, const char *command,
                   struct error *err) WARN_UNUSED;
int console_socket(const struct console *c);
enum answer console_take(struct console *c, PGresult **out);
/* The error of a result that is no success; or true. */
bool console_accept(const struct console *c, const char *command, const PGresult *res,
                    struct error *err) WARN_UNUSED;

/* ---- pgbouncer_file.c ---- */

/* Where an alias points, in the words of SHOW DATABASES. */
struct target {
    char *host; /* "" for PgBouncer's default */
    char *port;
    char *dbname;
    char *pool_mode; /* or NULL */
};

/* The right side of a [databases] line. False: why says what is wrong, never the text itself. */
bool target_parse(struct target *out, const char *text, const char *alias,
                  const char **why) WARN_UNUSED;
void target_release(struct target *t);
bool target_same(const struct target *a, const struct target *b);
char *target_describe(const struct target *t); /* "host:port/dbname"; caller frees */

/* The value of alias' line, which must be there exactly once; caller frees. */
bool alias_read(const char *path, const char *alias, char **value, struct error *err) WARN_UNUSED;
/* The file's text with that line's value replaced; old gets the text as it was. Writes nothing. */
bool alias_replaced(const char *path, const char *alias, const char *value, struct strbuf *old,
                    struct strbuf *out, struct error *err) WARN_UNUSED;

/* ---- the driver's own ---- */

enum pause_phase { PAUSE_ASKED, PAUSE_ANSWERED, PAUSE_PROVED };

struct pooler {
    struct console *main;   /* where PAUSE waits */
    struct console *second; /* answers meanwhile, and takes a PAUSE back */
    char *login_retry;      /* server_login_retry as prepare found it; NULL when not known */
    enum pause_phase phase;
    bool trusted;    /* the tag was PAUSE */
    bool was_paused; /* before we asked */
};

struct pgbouncer {
    const struct traffic *t;
    struct pooler *poolers;
    size_t npoolers, cappoolers;
    const char *database;
    const char *new_database; /* two versions only, else NULL */
    const char *file;         /* may be NULL with two versions */
    const char *text[2];      /* the right sides: of blue, of green */
    struct target target[2];
    int64_t timeout_us;
    char *said; /* the last disagreement that a probe reported */

    int lock_fd;              /* -1: not ours */
    int new_was_paused;       /* before prepare; -1: not known */
    enum traffic_side served; /* held, switched to or released last by this process */
    enum traffic_side noted;  /* released last, says the note */
};

static inline bool bouncer_two(const struct pgbouncer *b)
{
    return b->new_database != NULL;
}

struct patience bouncer_how(const struct pgbouncer *b, bool patient, bool stoppable);

/* One row of SHOW DATABASES. */
struct alias_state {
    struct target target;
    int64_t connections;
    int64_t min_pool_size;
    bool paused;
    bool disabled;
};

void alias_state_release(struct alias_state *s);
bool bouncer_show_alias(struct console *c, const struct patience *how, const char *alias,
                        struct alias_state *out, struct error *err) WARN_UNUSED;
/* The value of a setting; caller frees. */
bool bouncer_show_config(struct console *c, const struct patience *how, const char *key,
                         char **value, struct error *err) WARN_UNUSED;
/* Sums over the alias' pools. */
struct pool_sums {
    int pools;
    int64_t servers; /* logged in */
    int64_t logins;
    int64_t waiting; /* clients */
    bool session;    /* a pool in session mode */
    bool stuck;      /* a pool with clients waiting and no server */
};
bool bouncer_show_pools(struct console *c, const struct patience *how, const char *alias,
                        struct pool_sums *out, struct error *err) WARN_UNUSED;
/* Adds who holds server connections of alias, a line each; returns how many. Best effort. */
size_t bouncer_name_clients(struct console *c, const struct patience *how, const char *alias,
                            struct strbuf *out);

/* PAUSE alias on every pooler, proved. On any failure it is taken back: everywhere, or only where
 * it wasn't paused before. On the deadline ERR_BUDGET. */
enum pause_undo { PAUSE_UNDO_ALL, PAUSE_UNDO_OURS };
bool bouncer_pause(struct pgbouncer *b, const char *alias, int64_t deadline_us,
                   enum pause_undo undo, struct error *err) WARN_UNUSED;
bool pooler_resume(struct pooler *p, const char *alias, const struct patience *how,
                   struct error *err) WARN_UNUSED;
bool pooler_stop_new(struct pooler *p, const char *alias, const struct patience *how,
                     struct error *err) WARN_UNUSED;
/* New transactions of alias wait from now on; those that are open may go on. */
bool bouncer_stop_new(struct pgbouncer *b, const char *alias, struct error *err) WARN_UNUSED;
/* RESUME on every pooler; one that isn't paused is as well. All are tried. */
bool bouncer_resume(struct pgbouncer *b, const char *alias, struct error *err) WARN_UNUSED;
/* server_login_retry: noted if it isn't yet; 0 on every pooler; back, once no login can be stuck.
 */
bool bouncer_note_retry(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                        struct error *err) WARN_UNUSED;
bool bouncer_zero_retry(struct pgbouncer *b, const struct patience *how,
                        struct error *err) WARN_UNUSED;
bool bouncer_restore_retry(struct pgbouncer *b, int64_t wait_ms, bool anyway,
                           struct error *err) WARN_UNUSED;

bool bouncer_check(struct traffic *t, struct error *err) WARN_UNUSED;
bool bouncer_prepare(struct traffic *t, struct error *err) WARN_UNUSED;
/* alias points at side on every pooler. */
bool bouncer_points_at(struct pgbouncer *b, const struct patience *how, const char *alias,
                       enum traffic_side side, struct error *err) WARN_UNUSED;
/* The side that alias' line in the file points at; UNKNOWN when at neither. */
bool bouncer_file_side(const struct pgbouncer *b, const char *alias, enum traffic_side *side,
                       struct error *err) WARN_UNUSED;
bool pooler_points_at(struct pgbouncer *b, struct pooler *p, const struct patience *how,
                      const char *alias, enum traffic_side side, struct error *err) WARN_UNUSED;
const struct target *bouncer_target(const struct pgbouncer *b, enum traffic_side side);
/* The alias that serves when side does. */
const char *bouncer_alias(const struct pgbouncer *b, enum traffic_side side);
enum traffic_side bouncer_other(enum traffic_side side);
enum traffic_side bouncer_side_of(const struct pgbouncer *b, const struct target *target);
/* The probe. A disagreement is left in b->said, and told by an event once. */
bool bouncer_sides(struct pgbouncer *b, const struct patience *how, enum traffic_side *side,
                   bool *held, struct error *err) WARN_UNUSED;
/* Two versions: the other side's alias points there and is paused. */
bool bouncer_other_held(struct pgbouncer *b, enum traffic_side side, const struct patience *how,
                        struct error *err) WARN_UNUSED;

/* ---- pgbouncer_note.c ---- */

void note_load(struct pgbouncer *b);
bool note_lock(struct pgbouncer *b, struct error *err) WARN_UNUSED; /* ERR_LOCKED: another run */
bool note_save(const struct pgbouncer *b, struct error *err) WARN_UNUSED;
void note_remove(struct pgbouncer *b);

#endif
