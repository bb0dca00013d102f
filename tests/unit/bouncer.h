/*
 * bouncer.h - PgBouncers of a test's own in a cluster's directory, and clients behind them. The
 * aliases app, new and other stand in an included file; blue and green are two databases of one
 * cluster.
 */
#ifndef PGCUTOVER_TESTS_BOUNCER_H
#define PGCUTOVER_TESTS_BOUNCER_H

#include "base/clock.h"
#include "cluster.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define BOUNCER_PASSWORD "sesame7"

struct bouncer {
    const struct cluster *cluster;
    int port;
    char ini[96], pid_file[96];
};

static inline void bouncer_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

static inline void bouncer_configure(struct bouncer *b, const struct cluster *c, const char *name,
                                     const char *more)
{
    char text[2048], users[96];

    b->cluster = c;
    b->port = cluster_free_port();
    snprintf(b->ini, sizeof b->ini, "%s/%s.ini", c->dir, name);
    snprintf(b->pid_file, sizeof b->pid_file, "%s/%s.pid", c->dir, name);
    snprintf(users, sizeof users, "%s/users", c->dir);
    bouncer_write(users, "\"adm\" \"" BOUNCER_PASSWORD "\"\n\"stat\" \"s\"\n\"postgres\" \"p\"\n");
    snprintf(text, sizeof text,
             "[databases]\n%%include %s/aliases.ini\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
             "listen_port = %d\nunix_socket_dir =\nauth_type = md5\nauth_file = %s\n"
             "admin_users = adm\nstats_users = stat\npool_mode = transaction\nlogfile = %s/%s.log\n"
             "pidfile = %s\nserver_login_retry = 15\n%s",
             c->dir, b->port, users, c->dir, name, b->pid_file, more);
    bouncer_write(b->ini, text);
}

static inline PGconn *bouncer_connect(const struct bouncer *b, const char *alias, const char *user,
                                      const char *password, const char *application)
{
    char conninfo[512];
    snprintf(conninfo, sizeof conninfo,
             "host=127.0.0.1 port=%d dbname=%s user=%s password=%s application_name=%s", b->port,
             alias, user, password, application);
    return PQconnectdb(conninfo);
}

static inline PGconn *bouncer_client(const struct bouncer *b, const char *alias)
{
    return bouncer_connect(b, alias, "postgres", "p", "shopfront");
}

/* One command in the admin console; returns 0 when it was taken. */
static inline int bouncer_admin(const struct bouncer *b, const char *command)
{
    PGconn *conn = bouncer_connect(b, "pgbouncer", "adm", BOUNCER_PASSWORD, "test");
    PGresult *res = PQexec(conn, command);
    bool ok = PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK;
    PQclear(res);
    PQfinish(conn);
    return ok ? 0 : -1;
}

/* A field of the row of SHOW whose key column has this value. */
static inline void bouncer_show(const struct bouncer *b, const char *command, const char *key,
                                const char *value, const char *column, char out[128])
{
    PGconn *conn = bouncer_connect(b, "pgbouncer", "adm", BOUNCER_PASSWORD, "test");
    PGresult *res = PQexec(conn, command);

    out[0] = '\0';
    for (int row = 0; row < PQntuples(res); row++)
        if (strcmp(PQgetvalue(res, row, PQfnumber(res, key)), value) == 0)
            snprintf(out, 128, "%s", PQgetvalue(res, row, PQfnumber(res, column)));
    PQclear(res);
    PQfinish(conn);
}

static inline void bouncer_start(struct bouncer *b)
{
    const char *const argv[] = {"/usr/sbin/pgbouncer", "-d", b->ini, NULL};
    int64_t deadline = clock_in_ms(10000);

    if (cluster_run(b->cluster, argv) != 0) {
        fprintf(stderr, "could not start PgBouncer\n");
        exit(1);
    }
    while (bouncer_admin(b, "SHOW VERSION") != 0 && !clock_passed(deadline))
        clock_sleep_ms(10);
}

/* A daemon's zombie is as good as gone: nobody here reaps it. */
static inline bool bouncer_runs(int pid)
{
    char path[64], state = 'Z';

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    bool runs = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state != 'Z';
    if (f)
        fclose(f);
    return runs;
}

static inline void bouncer_stop(struct bouncer *b)
{
    int64_t deadline = clock_in_ms(10000);
    int pid = 0;
    FILE *f = fopen(b->pid_file, "re");

    if (f && fscanf(f, "%d", &pid) == 1 && pid > 1)
        kill(pid, SIGKILL);
    if (f)
        fclose(f);
    while (pid > 1 && bouncer_runs(pid) && !clock_passed(deadline))
        clock_sleep_ms(5);
    unlink(b->pid_file);
}

/* Clients that write without a pause until told to stop. */
struct writer {
    const struct bouncer *bouncer;
    const char *alias;
    pthread_t thread;
    atomic_bool stop;
    atomic_int committed;
    atomic_int failed;
};

static inline void *bouncer_write_on(void *arg)
{
    static const char *const statements[] = {"BEGIN", "INSERT INTO w DEFAULT VALUES", "COMMIT"};
    struct writer *w = arg;
    PGconn *conn = bouncer_client(w->bouncer, w->alias);

    while (!atomic_load(&w->stop) && atomic_load(&w->failed) == 0) {
        for (size_t i = 0; i < 3; i++)
            if (*cluster_sql(conn, statements[i])) {
                fprintf(stderr, "writer on %s: %s", w->alias, PQerrorMessage(conn));
                atomic_fetch_add(&w->failed, 1);
            }
        atomic_fetch_add(&w->committed, 1);
        clock_sleep_ms(1);
    }
    PQfinish(conn);
    return NULL;
}

static inline void writer_start(struct writer *w, const struct bouncer *b, const char *alias)
{
    memset(w, 0, sizeof *w);
    w->bouncer = b;
    w->alias = alias;
    pthread_create(&w->thread, NULL, bouncer_write_on, w);
}

/* Until it has written once more; false after 10 s. */
static inline bool writer_goes_on(struct writer *w)
{
    int before = atomic_load(&w->committed);
    int64_t deadline = clock_in_ms(10000);

    while (atomic_load(&w->committed) <= before + 1 && !clock_passed(deadline))
        clock_sleep_ms(1);
    return atomic_load(&w->committed) > before + 1;
}

static inline void writer_stop(struct writer *w)
{
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
}

#endif
