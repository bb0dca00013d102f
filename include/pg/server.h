/*
 * server.h - questions that preflight asks of a server, each one query; and the making and dropping
 * of green.
 */
#ifndef PGCUTOVER_PG_SERVER_H
#define PGCUTOVER_PG_SERVER_H

#include "pg/catalog.h"

struct server_facts {
    int version;
    char version_text[64];
    bool superuser, replication, createdb;
    char user[64];
    char wal_level[16];
    int max_slots, used_slots, max_senders, used_senders, max_connections;
    int64_t
        max_locks; /* max_locks_per_transaction * (max_connections + max_prepared_transactions) */
    int64_t slot_keep_bytes; /* max_slot_wal_keep_size; -1 unlimited */
    bool in_recovery;
    bool event_triggers_ok; /* may create them */
    int64_t database_bytes;
    int prepared_transactions; /* in this database */
    int unlogged_tables;
    int invalid_constraints; /* NOT VALID */
    int invalid_indexes;
    int other_slots; /* logical slots of this database that aren't ours: stranded by a switch */
    int subscriptions;
    int event_triggers; /* not ours */
    int user_objects; /* tables, views, functions, types ... outside system schemas and pgcutover */
    char encoding[32], collate[64], ctype[64];
};
bool server_facts_read(struct pg *pg, struct server_facts *out, struct error *err) WARN_UNUSED;

/* Names that blue has and green lacks; caller frees the text (comma-separated, "" for none). */
bool server_missing_roles(struct pg *blue, struct pg *green, char **missing,
                          struct error *err) WARN_UNUSED;
bool server_missing_extensions(struct pg *blue, struct pg *green, char **missing, struct error *err)
    WARN_UNUSED; /* not in green's pg_available_extensions */
/* Names of tables, for the messages (limit 20, then "and N more"); caller frees. */
bool server_tables_unlogged(struct pg *pg, char **names, struct error *err) WARN_UNUSED;
bool server_constraints_not_valid(struct pg *pg, char **names, struct error *err) WARN_UNUSED;

/* Green as a database of its own. Marked by COMMENT ON DATABASE 'pgcutover run <run>': only so
 * marked ones are ever dropped. conninfo names the database to make; we connect to `postgres` or
 * `template1` there. Copies blue's encoding, collation, ctype, locale provider, database-level
 * settings (pg_db_role_setting) and owner if the role exists. */
bool server_database_exists(const char *conninfo, const char *dbname, bool *exists, bool *ours,
                            const char *run, struct error *err) WARN_UNUSED;
bool server_create_database(const char *conninfo, const char *dbname, struct pg *blue,
                            const char *run, struct error *err) WARN_UNUSED;
bool server_drop_database(const char *conninfo, const char *dbname, const char *run,
                          struct error *err)
    WARN_UNUSED; /* ends its sessions first; refuses one that isn't marked as this run's */
/* For a green that existed and was empty (create = no): drop everything that a restore made. */
bool server_empty_database(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;

#endif
