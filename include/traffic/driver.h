/*
 * driver.h - what moves the traffic, behind one ops table; one file a driver.
 *
 * Verbs are idempotent and each honours a deadline: its own argument, else the playbook's timeout.
 * Order in a switch: probe, prepare (before the pause), hold, switch_to, verify, release. MIXED or
 * UNKNOWN never goes on by itself. A driver that can't hold says so.
 *
 * A stop request ends probe, prepare and hold, which takes back what it had held. It doesn't end
 * switch_to, verify, release and retire, which are short: traffic must not stay held because of it.
 *
 * Errors: ERR_BUDGET from hold; ERR_LOCKED from prepare when another run drives the same proxy;
 * ERR_STOPPED; ERR_PLAYBOOK from open; else ERR_TRAFFIC. Nothing secret is in them.
 *
 * Two ways of the application ([app] compatible):
 *  both    one alias (`database`); it is held, repointed to the other side and released.
 *  switch  two aliases: `database`, the old version's, always points at blue; `new_database`, the
 *          new version's, always at green and held until the switch. To green: hold the old one,
 *          release the new one (the old one stays held: the old version can't run on the new
 *          schema). Back: the other way round.
 */
#ifndef PGCUTOVER_TRAFFIC_DRIVER_H
#define PGCUTOVER_TRAFFIC_DRIVER_H

#include "pg/conn.h"
#include "playbook/playbook.h"

enum traffic_side { TRAFFIC_UNKNOWN, TRAFFIC_BLUE, TRAFFIC_GREEN, TRAFFIC_MIXED };

struct traffic;

struct traffic_context {
    const char *run;
    bool two_versions;    /* [app] compatible = switch */
    const char *log_path; /* for the command driver */
    int64_t pause_us;     /* the longest that traffic may be held; 0: not known */
};

struct traffic_ops {
    const char *name;
    bool can_hold;
    bool (*open)(struct traffic *t, struct error *err);
    void (*close)(struct traffic *t);
    bool (*probe)(struct traffic *t, enum traffic_side *side, bool *held, struct error *err);
    bool (*check)(struct traffic *t, struct error *err); /* or NULL */
    bool (*prepare)(struct traffic *t, struct error *err);
    bool (*hold)(struct traffic *t, int64_t deadline_us, struct error *err);
    bool (*switch_to)(struct traffic *t, enum traffic_side side, int64_t deadline_us,
                      struct error *err);
    bool (*verify)(struct traffic *t, enum traffic_side side, struct error *err);
    bool (*release)(struct traffic *t, enum traffic_side side, struct error *err);
    bool (*retire)(struct traffic *t, struct error *err);
    void (*describe)(const struct traffic *t, struct strbuf *out);
};

struct traffic {
    const struct traffic_ops *ops;
    const struct playbook_section *section; /* [traffic NAME] */
    struct traffic_context context;
    bool can_hold; /* ops->can_hold, unless open said otherwise */
    void *state;   /* the driver's own */
};

/* Opens the driver of a [traffic NAME] section. Nothing is connected to yet: the verbs do it, and
 * again when a connection was lost. The section must live as long; the context is copied. */
bool traffic_open(struct traffic **out, const struct playbook_section *section,
                  const struct traffic_context *context, struct error *err) WARN_UNUSED;
void traffic_close(struct traffic *t);

const char *traffic_name(const struct traffic *t);
bool traffic_can_hold(const struct traffic *t);
/* Which side traffic would reach, and whether it is held now. With two aliases that are both held:
 * the side that this process held, switched to or released last; in a fresh process UNKNOWN, and
 * the arbiter decides. */
bool traffic_probe(struct traffic *t, enum traffic_side *side, bool *held,
                   struct error *err) WARN_UNUSED;
/* Could every verb act? Authorised, files writable, aliases where they belong. Changes nothing. */
bool traffic_check(struct traffic *t, struct error *err) WARN_UNUSED;
/* Before the pause: checks that every verb could act (authorised, files writable), warms
 * connections, holds the new alias. No effect on clients of the old one. */
bool traffic_prepare(struct traffic *t, struct error *err) WARN_UNUSED;
/* Traffic of the serving side waits and no transaction is open; proved. On the deadline: everything
 * is released again and ERR_BUDGET names who was still in a transaction. */
bool traffic_hold(struct traffic *t, int64_t deadline_us, struct error *err) WARN_UNUSED;
/* Repoint while held; nothing flows. */
bool traffic_switch(struct traffic *t, enum traffic_side side, int64_t deadline_us,
                    struct error *err) WARN_UNUSED;
/* Read back that switch_to took hold. */
bool traffic_verify(struct traffic *t, enum traffic_side side, struct error *err) WARN_UNUSED;
/* Traffic goes on, to side. Used after the switch and to take a hold back. */
bool traffic_release(struct traffic *t, enum traffic_side side, struct error *err) WARN_UNUSED;
/* After the run: put back what prepare changed (settings, the new alias' hold when the run was
 * aborted). */
bool traffic_retire(struct traffic *t, struct error *err) WARN_UNUSED;
/* For `plan`: the verbs in order. */
void traffic_describe(const struct traffic *t, struct strbuf *out);
const char *traffic_side_name(enum traffic_side side); /* "blue" ... */

#endif
