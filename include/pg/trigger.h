/*
 * trigger.h - the triggers of green's own tables while it is replayed to. session_replication_role
 * = replica keeps ordinary ones still, since their effects are in blue's log already (TRAPS 30);
 * those ENABLE ALWAYS or ENABLE REPLICA would fire all the same and count twice.
 * https://www.postgresql.org/docs/15/sql-altertable.html
 */
#ifndef PGCUTOVER_PG_TRIGGER_H
#define PGCUTOVER_PG_TRIGGER_H

#include "pg/catalog.h"

/* Disables them and keeps what puts them back as fact "silenced"; in one transaction, idempotent.
 */
bool triggers_silence(struct pg *pg, const char *run, int *silenced, struct error *err) WARN_UNUSED;
/* Puts them back as they were and forgets them. Nothing to do is fine. */
bool triggers_restore(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;

/* Triggers that green has and blue has not, by table and name, one a line: "public.orders: trigger
 * audit". Caller frees
 * ("" when there are none). Ours are left out. */
bool triggers_new(struct pg *blue, struct pg *green, char **list, struct error *err) WARN_UNUSED;

bool table_has_rows(struct pg *pg, const char *sql_name, bool *yes, struct error *err) WARN_UNUSED;

#endif
