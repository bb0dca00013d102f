/* replay_shop.h - a pair whose schema has what replay finds hard: keys of all kinds and of none, a
 * rule, partitions. */
#ifndef PGCUTOVER_TESTS_REPLAY_SHOP_H
#define PGCUTOVER_TESTS_REPLAY_SHOP_H

#include "replay_pair.h"

static const char shop_schema[] =
    "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, balance numeric NOT NULL, note "
    "varchar(40), "
    " big text, stamp timestamptz DEFAULT now());"
    "ALTER TABLE account ALTER big SET STORAGE EXTERNAL;"
    "CREATE TABLE pair (a int, b text, v int, PRIMARY KEY (b, a));"
    "CREATE TABLE loose (line text, n int);"
    "ALTER TABLE loose REPLICA IDENTITY FULL;"
    "CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST "
    "(region);"
    "CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');"
    "CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');"
    "CREATE TABLE gone (id int PRIMARY KEY, v int);"
    "CREATE TABLE seat (id int PRIMARY KEY, pos int, UNIQUE (pos) DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE \"Odd \"\"Name\" (\"Key\" text PRIMARY KEY, \"select\" float8, b bytea, j jsonb, "
    "a int[], "
    " always int GENERATED ALWAYS AS IDENTITY, twice float8 GENERATED ALWAYS AS (\"select\" * 2) "
    "STORED);"
    "INSERT INTO account SELECT i, 'm' || i, i, 'n', repeat(md5(i::text), 300) FROM "
    "generate_series(1, 300) i;"
    "INSERT INTO pair SELECT i, 'p' || i % 7, i FROM generate_series(1, 200) i;"
    "INSERT INTO loose SELECT 'l' || i % 5, i % 3 FROM generate_series(1, 60) i;"
    "INSERT INTO part SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'v' FROM "
    "generate_series(1, 200) i;"
    "INSERT INTO seat SELECT i, i FROM generate_series(1, 100) i;";

static const char shop_migration[] =
    "CREATE SCHEMA crm; ALTER TABLE account RENAME TO customer; ALTER TABLE customer SET SCHEMA "
    "crm;"
    "ALTER TABLE crm.customer RENAME email TO mail;"
    "ALTER TABLE crm.customer ADD cents bigint;"
    "UPDATE crm.customer SET cents = (balance * 100)::bigint; ALTER TABLE crm.customer DROP "
    "balance;"
    "ALTER TABLE pair ALTER v TYPE bigint; ALTER TABLE pair RENAME a TO aa;"
    "DROP TABLE gone;";

static struct map_up shop_ups[] = {{.column = "cents", .expr = "(balance * 100)::bigint"}};
static const struct map_rule shop_rules[] = {
    {.section = "public.account", .line = 1, .up = shop_ups, .nup = 1}};

static inline struct pair *shop_open(const struct cluster *c, int batch_changes)
{
    return pair_open(c, shop_schema, shop_migration, shop_rules, 1, batch_changes);
}

static inline void all_same(struct pair *p)
{
    same(p, "SELECT id, email, (balance * 100)::bigint, note, md5(big), stamp FROM account",
         "SELECT id, mail, cents, note, md5(big), stamp FROM crm.customer");
    same(p, "SELECT a, b, v FROM pair", "SELECT aa, b, v FROM pair");
    same(p, "SELECT line, n FROM loose", "SELECT line, n FROM loose");
    same(p, "SELECT tableoid::regclass, id, region, v FROM part",
         "SELECT tableoid::regclass, id, region, v FROM part");
    same(p, "SELECT id, pos FROM seat", "SELECT id, pos FROM seat");
    same(p, "SELECT * FROM \"Odd \"\"Name\"", "SELECT * FROM \"Odd \"\"Name\"");
}

#endif
