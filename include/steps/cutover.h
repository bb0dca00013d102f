/*
 * cutover.h - one run and the parts that are alive in this process: what the steps bind to the
 * engine.
 *
 * Who owns what: struct cutover owns everything below it. The engine's thread (main) makes and ends
 * the parts; the keeper thread only reads their counters; the capture, apply and tail threads own
 * their connections.
 */
#ifndef PGCUTOVER_STEPS_CUTOVER_H
#define PGCUTOVER_STEPS_CUTOVER_H

#include "map/map.h"
#include "map/touched.h"
#include "pg/catalog.h"
#include "pg/slot.h"
#include "playbook/playbook.h"
#include "repl/apply.h"
#include "repl/capture.h"
#include "repl/spool.h"
#include "run/control.h"
#include "run/engine.h"
#include "run/rundir.h"
#include "traffic/driver.h"
#include "verify/verify.h"

#include <stdatomic.h>

struct tail;   /* steps/tail.h: the thread that compares touched keys */
struct keeper; /* steps/keeper.h: status.json, confirmations, the health of the threads */
struct pguard; /* steps/pause_guard.h: our end of the guard process */

struct side {
    const char *name; /* "blue", "green" */
    const char *conninfo;
    char *dbname;    /* the database worked on; a rehearsal's green has another than the conninfo */
    struct pg *pg;   /* control session of the engine's thread */
    struct pg *lock; /* holds the advisory lock of the run */
    struct catalog cat;
    bool cat_loaded;
    struct pg_identity identity;
};

/* Names of everything that a run makes on a server: deterministic, so that any process finds them
 * again. */
struct run_names {
    char run[64];
    char slot[64];
    char publication[64];
    char back_slot[64];
    char back_publication[64];
};

/* The pause, in either direction: traffic goes from one side to the other. */
struct pause {
    struct side *from, *to;
    enum traffic_side from_side, to_side;
    struct pg *l; /* the fence's transaction */
    struct pguard *guard;
    int64_t began_us, deadline_us;
    lsn_t locked_lsn; /* nothing may be decoded between this and the marker */
    int64_t marker;
    int64_t confirmed_keys;
    int attempts;
};

enum inbox { INBOX_EMPTY, INBOX_GO, INBOX_WAIT, INBOX_STOP, INBOX_ABORT };

struct cutover {
    struct playbook *pb;
    struct rundir dir;
    struct journal *journal;
    struct engine engine;
    struct run_names names;
    bool assume_yes;
    bool rehearsal;
    bool keep_clone;
    bool lose_writes;        /* rollback: go on although green took writes */
    const char *pause_after; /* a gate after this step */
    bool decided;            /* the switch was decided (fact "decided") */

    struct side blue, green;

    struct pg *exporter; /* walsender whose idle transaction holds the dump's snapshot */
    char snapshot[64];
    struct spool *spool;
    struct capture *capture;
    struct catalog before; /* green right before its migrations */
    struct map_rule *rules;
    size_t nrules;
    struct map map;
    bool map_ready;
    struct touched *touched;
    struct constraint_checks checks; /* what replay doesn't enforce */
    struct touched *changed;         /* keys since the last full run of them; NULL: no checks */
    struct apply *apply;
    struct tail *tail;
    struct traffic **traffic;
    size_t ntraffic;
    struct pause pause;

    struct control *control;
    struct keeper *keeper;
    _Atomic int inbox;        /* enum inbox: the last answer that came in */
    _Atomic int abort_wanted; /* asked for while no gate was open */
    _Atomic int gate_open;    /* a gate waits for an answer */
    char *gate_text;          /* what the open gate shows; owned by the engine's thread */

    /* The terminal's side, set by cmd/: shows a gate's evidence and may read an answer
     * (INBOX_EMPTY: none yet). */
    enum inbox (*ask)(void *ui, const char *gate, const char *evidence, bool first);
    void *ui;
};

/* Opens a run over its directory: journal, names, playbook's rules. Connects to nothing. Takes pb
 * over. */
bool cutover_open(struct cutover *c, struct playbook *pb, struct rundir *dir, bool write,
                  struct error *err) WARN_UNUSED;
/* Ends threads and sessions, leaves the servers as they are. */
void cutover_close(struct cutover *c);

/* Opens the driver of every [traffic ...] section that isn't open yet. */
bool cutover_open_traffic(struct cutover *c, struct error *err) WARN_UNUSED;

/* Sessions. Each is idempotent; side_connect reconnects a lost one. */
bool side_connect(struct cutover *c, struct side *s, struct error *err) WARN_UNUSED;
bool side_lock(struct cutover *c, struct side *s, struct error *err) WARN_UNUSED;
bool side_load(struct cutover *c, struct side *s, struct error *err) WARN_UNUSED; /* catalog anew */
void side_disconnect(struct side *s);

/* A session of its own on a side, application_name pgcutover/<run>/<worker>. */
bool side_open(struct cutover *c, const struct side *s, enum pg_kind kind, const char *worker,
               struct pg **out, struct error *err) WARN_UNUSED;

/* Capture, map and replay as parts: made by their steps, and again on resume. */
bool live_start_capture(struct cutover *c, struct error *err) WARN_UNUSED;
bool live_start_apply(struct cutover *c, struct error *err) WARN_UNUSED;
bool live_load_map(struct cutover *c, struct error *err) WARN_UNUSED;
void live_stop(struct cutover *c); /* tail, apply, capture, spool */
/* Has a thread failed? A failure of one ends the run (TRAPS 47). */
bool live_check(struct cutover *c, struct error *err) WARN_UNUSED;
int64_t live_lag_bytes(
    struct cutover *c); /* source's WAL end minus what the target has; -1 unknown */

char *cutover_file(const struct cutover *c,
                   const char *name); /* in the run directory; caller frees */
const struct playbook_section *cutover_section(const struct cutover *c, const char *kind);

/* One common point on both sides (DESIGN 6, "at one LSN"), and the comparison of everything there.
 */
enum compare_mode { COMPARE_PROVE, COMPARE_VERIFY };
bool compare_at_one_lsn(struct cutover *c, enum compare_mode mode, struct error *err) WARN_UNUSED;

/* Which side serves, and how that is known; the way back; the next command: the three lines of
 * every screen. */
struct three_lines {
    char serving[256];
    char way_back[256];
    char next[256];
};
void cutover_three_lines(const struct cutover *c, struct three_lines *out);

#endif
