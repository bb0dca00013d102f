/* batch_redo.c - changes one by one, in the source's order, and what is said when one of them
 * fails. */
#include "batch_private.h"

#include <ctype.h>
#include <string.h>

#define KEY_TEXT 200
#define VALUE_TEXT 60

static const char *const op_names[] = {[OP_INSERT] = "INSERT",
                                       [OP_UPDATE] = "UPDATE",
                                       [OP_DELETE] = "DELETE",
                                       [OP_REKEY] = "UPDATE of the key"};

/* Values are in the source's encoding, whichever that is: what isn't plain ASCII is shown as a dot.
 */
static void add_value(struct strbuf *sb, const struct pgo_value *v)
{
    if (v->kind != 't') {
        strbuf_addstr(sb, v->kind == 'n' ? "NULL" : "(not sent)");
        return;
    }
    for (uint32_t i = 0; i < v->len && i < VALUE_TEXT; i++)
        strbuf_addch(sb, isprint((unsigned char) v->data[i]) ? v->data[i] : '.');
    if (v->len > VALUE_TEXT)
        strbuf_addstr(sb, "...");
}

/* "id = 5, region = eu"; of a table without a key, its first columns. */
static void add_key(struct strbuf *sb, const struct change *c)
{
    const struct map_table *mt = c->table->mt;
    const struct pgo_value *row = c->op == OP_INSERT ? c->row : c->key ? c->key : c->old;
    size_t n = mt->nsource_key ? mt->nsource_key : mt->nsource;

    for (size_t i = 0; i < n; i++) {
        size_t j = mt->nsource_key ? (size_t) mt->source_key[i] : i;
        if (sb->len > KEY_TEXT) {
            strbuf_addstr(sb, ", ...");
            break;
        }
        strbuf_addf(sb, "%s%s = ", i > 0 ? ", " : "", mt->source_columns[j]->name);
        add_value(sb, &row[j]);
    }
}

void conflict_hint(struct error *err)
{
    error_hint(
        err, "Fix the row on the source, or add a rule for it to the playbook, then "
             "`pgcutover resume RUN`: replay goes on from the last transaction that it committed.");
}

/* Server: what it said, in err; found: how many rows were met instead of one. */
static bool conflict(const struct change *c, const char *what, const struct error *server,
                     struct error *err)
{
    const struct map_table *mt = c->table->mt;
    struct error cause = server ? *server : (struct error){0};
    struct strbuf key = {0};
    char lsn[LSN_SIZE];

    add_key(&key, c);
    error_set(err, ERR_CONFLICT, "%s of %s.%s (%s) at commit %s %s%s", op_names[c->op],
              mt->source->schema, mt->source->name, strbuf_cstr(&key), lsn_str(lsn, c->commit_lsn),
              server ? "failed: " : what, server ? cause.message : "");
    memcpy(err->sqlstate, cause.sqlstate, sizeof err->sqlstate);
    if (mt->target)
        error_detail(err, "in %s.%s%s%s", mt->target->schema, mt->target->name,
                     cause.detail[0] ? ": " : "", cause.detail);
    conflict_hint(err);
    strbuf_release(&key);
    return false;
}

static bool conflict_stale(const struct change *c, const struct mask *m, struct error *err)
{
    const struct map_table *mt = c->table->mt;
    struct strbuf what = {0};

    strbuf_addf(
        &what,
        "can't be mapped: the rule for %s reads column %s, whose value the source did not send "
        "(unchanged TOAST)",
        mt->columns[m->stale].target->name, mt->source_columns[m->missing]->name);
    conflict(c, strbuf_cstr(&what), NULL, err);
    error_hint(err, "The table needs REPLICA IDENTITY FULL before the capture begins: "
                    "abort, set it on the source, and run again.");
    strbuf_release(&what);
    return false;
}

bool conflict_unresolved(const struct map_table *mt, lsn_t commit_lsn, struct error *err)
{
    char lsn[LSN_SIZE];

    error_set(err, ERR_CONFLICT,
              "%s.%s changed at commit %s, and the map doesn't know how its rows go over",
              mt->source->schema, mt->source->name, lsn_str(lsn, commit_lsn));
    error_detail(err, "%s", mt->unresolved);
    return error_hint(err,
                      "Add a rule for the table to the playbook, then `pgcutover resume RUN`.");
}

bool conflict_truncate(const struct map_table *mt, lsn_t commit_lsn, struct error *err)
{
    char lsn[LSN_SIZE];

    error_set(err, ERR_CONFLICT, "TRUNCATE of %s.%s at commit %s can't be replayed",
              mt->source->schema, mt->source->name, lsn_str(lsn, commit_lsn));
    error_detail(err, "its rows are in %s%s%s, together with those of other tables or partitions",
                 mt->target ? mt->target->schema : "", mt->target ? "." : "no table",
                 mt->target ? mt->target->name : "");
    return error_hint(
        err, "Delete the rows from the target by hand and compare the table, or abort and run "
             "again.");
}

static void bind_one(struct batch *b, const struct map_table *mt, const bool *present,
                     const struct pgo_value *row)
{
    bind_rows(b, mt, present, &row, 1);
}

/* The statement for c with its parameters bound; NULL: it sets nothing. */
static const char *prepare(struct batch *b, const struct change *c, const struct mask **mask)
{
    struct table *t = c->table;
    const struct map_table *mt = t->mt;
    bool keyed = mt->nsource_key > 0;
    struct mask *m = NULL;

    bind_none(b);
    if (c->op == OP_INSERT) {
        bind_one(b, mt, NULL, c->row);
        return table_insert(t);
    }
    if (c->op == OP_DELETE) {
        bind_one(b, mt, keyed ? t->key_columns : NULL, keyed ? c->key : c->old);
        return keyed ? table_delete(t) : table_delete_row(t);
    }
    *mask = m = table_mask(b, t, c->row, c->partial);
    if (!keyed)
        bind_one(b, mt, NULL, c->old);
    else if (c->op == OP_REKEY)
        bind_one(b, mt, t->key_columns, c->key);
    bind_one(b, mt, m->present, c->row);
    return !keyed              ? mask_update_row(t, m)
           : c->op == OP_REKEY ? mask_rekey(t, m)
                               : mask_update(t, m);
}

bool change_run(struct batch *b, struct pg *pg, const struct change *c, struct error *err)
{
    const struct mask *m = NULL;
    struct error server = {0};
    int64_t found = 0;
    struct strbuf what = {0};

    const char *sql = prepare(b, c, &m);
    if (m && m->stale >= 0)
        return conflict_stale(c, m, err);
    if (!sql)
        return true;
    if (!batch_execute(b, pg, sql, &found, &server)) {
        if (batch_trouble(pg, &server) == BATCH_DATA)
            return conflict(c, NULL, &server, err);
        *err = server;
        return false;
    }
    if (found == 1)
        return true;
    if (found == 0)
        strbuf_addstr(&what, "found no row");
    else
        strbuf_addf(&what, "found %lld rows", (long long) found);
    conflict(c, strbuf_cstr(&what), NULL, err);
    strbuf_release(&what);
    return false;
}

bool redo_run(struct batch *b, struct pg *pg, struct error *err)
{
    if (!pg_exec(pg, "SET CONSTRAINTS ALL DEFERRED", err))
        return false;
    for (const struct change *c = b->first; c; c = c->next)
        if (!change_run(b, pg, c, err))
            return false;
    return true;
}
