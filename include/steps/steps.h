/*
 * steps.h - the step tables and what the commands call. The table in src/steps/table.c is the
 * procedure: a newcomer reads it first.
 */
#ifndef PGCUTOVER_STEPS_STEPS_H
#define PGCUTOVER_STEPS_STEPS_H

#include "steps/cutover.h"

extern const struct step online_steps[]; /* procedure = online */
extern const struct step rehearsal_steps[];
extern const struct step rollback_steps[];
extern const struct engine_ops online_ops;
extern const struct engine_ops rollback_ops;

/* preflight */
enum check_result { CHECK_PASS, CHECK_WARN, CHECK_FAIL };
struct check_item {
    const char *name;
    enum check_result result;
    char *seen;
    char *todo; /* NULL when nothing is to be done */
};
struct check_list {
    struct check_item *items;
    size_t n, cap;
};
/* Every check that changes nothing. False only when it could not go on (no connection). */
bool preflight_run(struct cutover *c, struct check_list *out, struct error *err) WARN_UNUSED;
size_t check_list_fails(const struct check_list *l);
void check_list_release(struct check_list *l);

/* acts and undos, one file a group */
bool step_preflight(void *ctx, struct error *err);
bool step_guard(void *ctx, struct error *err);
bool step_guard_undo(void *ctx, struct error *err);
bool step_guard_attach(void *ctx, struct error *err);
bool step_capture(void *ctx, struct error *err);
bool step_capture_undo(void *ctx, struct error *err);
bool step_capture_attach(void *ctx, struct error *err);
bool step_dump(void *ctx, struct error *err);
bool step_dump_undo(void *ctx, struct error *err);
bool step_restore(void *ctx, struct error *err);
bool step_restore_undo(void *ctx, struct error *err);
bool step_restore_attach(void *ctx, struct error *err);
bool step_migrate(void *ctx, struct error *err);
bool step_migrate_attach(void *ctx, struct error *err);
bool step_prove(void *ctx, struct error *err);
bool step_replay(void *ctx, struct error *err);
bool step_replay_undo(void *ctx, struct error *err);
bool step_replay_attach(void *ctx, struct error *err);
bool step_verify(void *ctx, struct error *err);
bool step_verify_undo(void *ctx, struct error *err);
bool step_verify_attach(void *ctx, struct error *err);
bool step_reverse(void *ctx, struct error *err);
bool step_reverse_undo(void *ctx, struct error *err);
bool step_deploy(void *ctx, struct error *err);
bool step_deploy_undo(void *ctx, struct error *err);
bool step_deploy_attach(void *ctx, struct error *err);
bool step_hold(void *ctx, struct error *err);
bool step_hold_undo(void *ctx, struct error *err);
bool step_fence(void *ctx, struct error *err);
bool step_fence_undo(void *ctx, struct error *err);
bool step_drain(void *ctx, struct error *err);
bool step_confirm(void *ctx, struct error *err);
bool step_flip(void *ctx, struct error *err);
bool step_flip_undo(void *ctx, struct error *err);
bool step_open(void *ctx, struct error *err);
bool step_release(void *ctx, struct error *err);
bool step_measure(void *ctx, struct error *err); /* rehearsal: what a drain would take */
bool step_rollback_prepare(void *ctx, struct error *err);
bool step_rollback_count(void *ctx, struct error *err);
bool step_rollback_release(void *ctx, struct error *err);
bool step_rollback_tidy(void *ctx, struct error *err);

/* Does green's database exist, and is it this run's? With --keep-clone an unreachable one counts as
 * gone. */
bool green_is_there(struct cutover *c, bool *exists, bool *ours, struct error *err) WARN_UNUSED;

/* describe, for plan */
void describe_guard(void *ctx, struct strbuf *out);
void describe_capture(void *ctx, struct strbuf *out);
void describe_clone(void *ctx, struct strbuf *out);
void describe_restore(void *ctx, struct strbuf *out);
void describe_migrate(void *ctx, struct strbuf *out);
void describe_reverse(void *ctx, struct strbuf *out);
void describe_deploy(void *ctx, struct strbuf *out);
void describe_hold(void *ctx, struct strbuf *out);
void describe_fence(void *ctx, struct strbuf *out);
void describe_drain(void *ctx, struct strbuf *out);
void describe_open(void *ctx, struct strbuf *out);
void describe_release(void *ctx, struct strbuf *out);

/* Whole commands over the steps. */
bool cutover_abort(struct cutover *c, struct error *err) WARN_UNUSED; /* before open */
bool cutover_finish(struct cutover *c, bool unfence_blue,
                    struct error *err) WARN_UNUSED; /* after open */
/* Gates, checks and hooks around a step (engine_ops.before and .after). */
bool gate_before(void *ctx, const struct step *step, enum gate_answer *answer, struct error *err);
bool gate_after(void *ctx, const struct step *step, struct error *err);

#endif
