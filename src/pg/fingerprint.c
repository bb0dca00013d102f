/*
 * fingerprint.c - one number for a database's definitions, in one query, fast enough for the pause:
 * each definition's raw catalog row is hashed, and the hashes are summed, so that nothing is sorted
 * or deparsed.
 *
 * Indexes go by name, not by OID, and only valid ones: REINDEX CONCURRENTLY, which the guard
 * allows, makes new OIDs and, meanwhile, invalid copies. Replica identities are left out, for we
 * change them.
 */
#include "private.h"

#include <stdio.h>
#include <stdlib.h>

struct part {
    const char *expression; /* what is hashed */
    const char *from;       /* with n for pg_namespace */
};

#define RELATION(alias)                                                                            \
    " JOIN pg_catalog.pg_class c ON c.oid = " alias                                                \
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"

static const struct part parts[] = {
    {"n.oid, n.nspname", "pg_catalog.pg_namespace n WHERE true"},
    {"c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition, c.reloftype, "
     "c.relrowsecurity, "
     "c.relforcerowsecurity, c.relpartbound::text",
     "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE "
     "c.relkind NOT IN "
     "('i', 'I', 't')"},
    {"a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, "
     "a.attgenerated, "
     "a.attcollation",
     "pg_catalog.pg_attribute a" RELATION(
         "a.attrelid") " WHERE a.attnum > 0 AND NOT a.attisdropped AND "
                       "c.relkind NOT IN ('i', 'I', 't', 'S')"},
    {"d.adrelid, d.adnum, d.adbin::text",
     "pg_catalog.pg_attrdef d" RELATION("d.adrelid") " WHERE true"},
    {"i.inhrelid, i.inhparent, i.inhseqno",
     "pg_catalog.pg_inherits i" RELATION("i.inhrelid") " WHERE c.relkind NOT IN ('i', 'I')"},
    {"k.conname, k.contype, k.condeferrable, k.condeferred, k.convalidated, k.conrelid, "
     "k.contypid, k.confrelid, "
     "k.confupdtype, k.confdeltype, k.confmatchtype, k.conkey::text, k.confkey::text, "
     "k.conbin::text",
     "pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace WHERE "
     "true"},
    {"x.relname, i.indrelid, i.indisunique, i.indisprimary, i.indisexclusion, i.indimmediate, "
     "i.indkey::text, "
     "i.indclass::text, i.indcollation::text, i.indoption::text, i.indexprs::text, "
     "i.indpred::text, i.indnkeyatts",
     "pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid" RELATION(
         "i.indrelid") " WHERE i.indisvalid AND c.relkind <> 't'"},
    {"t.oid, n.nspname, t.typname, t.typtype, t.typbasetype, t.typtypmod, t.typnotnull, "
     "t.typdefaultbin::text, "
     "t.typdefault, t.typcollation",
     "pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE true"},
    {"e.enumtypid, e.enumsortorder, e.enumlabel",
     "pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid "
     "JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE true"},
    {"t.tgrelid, t.tgname, t.tgfoid, t.tgtype, t.tgenabled, t.tgattr::text, t.tgargs, "
     "t.tgqual::text, t.tgdeferrable, "
     "t.tginitdeferred, t.tgoldtable, t.tgnewtable",
     "pg_catalog.pg_trigger t" RELATION(
         "t.tgrelid") " WHERE NOT t.tgisinternal AND t.tgname <> '" FENCE_TRIGGER "'"},
    {"r.ev_class, r.rulename, r.ev_type, r.ev_enabled, r.is_instead, r.ev_qual::text, "
     "r.ev_action::text",
     "pg_catalog.pg_rewrite r" RELATION("r.ev_class") " WHERE true"},
    {"p.oid, n.nspname, p.proname, p.prolang, p.prokind, p.prosecdef, p.proisstrict, "
     "p.provolatile, p.proretset, "
     "p.prorettype, p.proargtypes::text, p.proargdefaults::text, p.prosrc, p.probin, "
     "p.proconfig::text",
     "pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE true"},
    {"s.seqrelid, s.seqtypid, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcycle",
     "pg_catalog.pg_sequence s" RELATION("s.seqrelid") " WHERE true"},
};

bool catalog_fingerprint(struct pg *pg, char out[40], struct error *err)
{
    struct strbuf sql = {0};
    char *text = NULL;
    bool ok;

    strbuf_addstr(&sql, "SELECT pg_catalog.string_agg(h, ' ' ORDER BY k) FROM (");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        strbuf_addf(
            &sql,
            "%sSELECT %zu AS k, pg_catalog.count(*) || ':' || coalesce(pg_catalog.sum(pg_catalog."
            "hashtextextended(ROW(%s)::text COLLATE \"C\", 0)::numeric), 0) AS h FROM %s "
            "AND " USER_NAMESPACE,
            i ? " UNION ALL " : "", i, parts[i].expression, parts[i].from);
    strbuf_addstr(&sql, " UNION ALL SELECT 99, pg_catalog.string_agg(extname || ' ' || extversion, "
                        "',' ORDER BY extname) "
                        "FROM pg_catalog.pg_extension");
    strbuf_addstr(&sql, ") q");
    ok = pg_value(pg, &text, strbuf_cstr(&sql), 0, NULL, err);
    strbuf_release(&sql);
    if (ok) {
        uint64_t a = 14695981039346656037u, b = 0x9e3779b97f4a7c15u;
        for (const char *p = text; *p; p++) {
            a = (a ^ (unsigned char) *p) * 1099511628211u;
            b = ((b << 7 | b >> 57) ^ (unsigned char) *p) * 0xff51afd7ed558ccdu;
        }
        snprintf(out, 40, "%016llx%016llx", (unsigned long long) a, (unsigned long long) b);
    }
    free(text);
    return ok;
}
