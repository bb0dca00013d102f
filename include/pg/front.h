/*
 * front.h - which server answers at the front door, asked as an ordinary client would: no options
 * of ours, which a pooler would refuse, and the simple protocol only.
 */
#ifndef PGCUTOVER_PG_FRONT_H
#define PGCUTOVER_PG_FRONT_H

#include "pg/conn.h"

/* The system identifier behind conninfo; within about timeout_s seconds. Needs a role that may call
 * pg_control_system(), as every role may by default. */
bool front_system_id(const char *conninfo, int timeout_s, uint64_t *system_id,
                     struct error *err) WARN_UNUSED;

#endif
