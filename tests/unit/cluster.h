/*
 * cluster.h - a PostgreSQL cluster of a test's own: made under /tmp by cluster_start, reached
 * through a Unix socket in its directory, gone after cluster_stop. As root it runs as user
 * postgres. Everything is static, so that any test can include it.
 */
#ifndef PGCUTOVER_TESTS_CLUSTER_H
#define PGCUTOVER_TESTS_CLUSTER_H

#include <arpa/inet.h>
#include <glob.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libpq-fe.h>

struct cluster {
    char dir[64]; /* data, log and socket are in it */
    char bin[256];
    int port;
    char conninfo[256]; /* of database postgres as user postgres */
};

static inline int cluster_run(const struct cluster *c, const char *const *argv)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        char log[128];
        struct passwd *pw = getpwnam("postgres");
        snprintf(log, sizeof log, "%s/setup.log", c->dir);
        if (geteuid() == 0 && (!pw || setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0))
            _exit(126);
        if (!freopen(log, "a", stdout) || !freopen(log, "a", stderr) || chdir("/") != 0)
            _exit(125);
        unsetenv("PGDATA");
        execv(argv[0], (char *const *) (uintptr_t) argv);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline int cluster_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int port = 0;

    if (bind(fd, (struct sockaddr *) &address, sizeof address) == 0 &&
        getsockname(fd, (struct sockaddr *) &address, &len) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

/* Returns 0, or -1 with a line on stderr. */
static inline int cluster_start(struct cluster *c)
{
    char data[80], options[512], log[80], initdb[300], pg_ctl[300];
    glob_t found;
    struct passwd *pw = getpwnam("postgres");

    memset(c, 0, sizeof *c);
    if (glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) != 0) {
        fprintf(stderr, "cluster: no PostgreSQL server is installed\n");
        return -1;
    }
    snprintf(c->bin, sizeof c->bin, "%s", found.gl_pathv[found.gl_pathc - 1]);
    *strrchr(c->bin, '/') = '\0';
    globfree(&found);
    snprintf(c->dir, sizeof c->dir, "/tmp/pgcutover-test-XXXXXX");
    if (!mkdtemp(c->dir) || (geteuid() == 0 && pw && chown(c->dir, pw->pw_uid, pw->pw_gid) != 0)) {
        perror("cluster");
        return -1;
    }
    c->port = cluster_free_port();
    snprintf(data, sizeof data, "%s/data", c->dir);
    snprintf(log, sizeof log, "%s/server.log", c->dir);
    snprintf(initdb, sizeof initdb, "%s/initdb", c->bin);
    snprintf(pg_ctl, sizeof pg_ctl, "%s/pg_ctl", c->bin);
    snprintf(options, sizeof options,
             "-p %d -k %s -c listen_addresses=127.0.0.1 -c wal_level=logical -c "
             "max_prepared_transactions=10 "
             "-c fsync=off -c max_locks_per_transaction=256 -c max_replication_slots=20 -c "
             "max_wal_senders=20 "
             "-c shared_buffers=64MB -c log_min_duration_statement=-1",
             c->port, c->dir);
    const char *const init[] = {initdb, "-D",    data, "-U",   "postgres",
                                "-A",   "trust", "-E", "UTF8", "--locale=C.UTF-8",
                                "-N",   NULL};
    const char *const start[] = {pg_ctl, "-D", data, "-l",    log,     "-w",
                                 "-t",   "60", "-o", options, "start", NULL};
    if (cluster_run(c, init) != 0 || cluster_run(c, start) != 0) {
        fprintf(stderr, "cluster: could not start; see %s\n", c->dir);
        return -1;
    }
    snprintf(c->conninfo, sizeof c->conninfo, "host=%s port=%d user=postgres dbname=postgres",
             c->dir, c->port);
    return 0;
}

static inline void cluster_stop(struct cluster *c)
{
    char data[80], pg_ctl[300];

    if (!c->dir[0])
        return;
    snprintf(data, sizeof data, "%s/data", c->dir);
    snprintf(pg_ctl, sizeof pg_ctl, "%s/pg_ctl", c->bin);
    const char *const stop[] = {pg_ctl, "-D", data, "-m", "immediate", "-w", "stop", NULL};
    const char *const clean[] = {"/bin/rm", "-rf", data, NULL};
    cluster_run(c, stop);
    cluster_run(c, clean);
    const char *const rest[] = {"/bin/rm", "-rf", c->dir, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execv(rest[0], (char *const *) (uintptr_t) rest);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
    c->dir[0] = '\0';
}

/* A client that isn't ours: plain libpq. Exits the test when it can't. */
static inline PGconn *cluster_client(const struct cluster *c, const char *dbname,
                                     const char *application)
{
    char conninfo[512];
    PGconn *conn;

    snprintf(conninfo, sizeof conninfo,
             "%s dbname=%s application_name=%s options='-c client_min_messages=error'", c->conninfo,
             dbname, application);
    conn = PQconnectdb(conninfo);
    if (PQstatus(conn) != CONNECTION_OK) {
        fprintf(stderr, "cluster: %s", PQerrorMessage(conn));
        exit(1);
    }
    return conn;
}

/* Runs it; returns the SQLSTATE, "" when all went well. */
static inline const char *cluster_sql(PGconn *conn, const char *sql)
{
    static __thread char state[6];
    PGresult *res = PQexec(conn, sql);
    const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    bool ok = PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK;

    snprintf(state, sizeof state, "%s", ok ? "" : code ? code : "XX000");
    PQclear(res);
    return state;
}

#endif
