#include "steps/commands.h"

#include "base/alloc.h"
#include "sys/process.h"

#include <stdlib.h>

static const char *step_name(const struct cutover *c)
{
    return c->engine.steps && c->engine.current < c->engine.nsteps
               ? c->engine.steps[c->engine.current].name
               : "";
}

bool command_run(struct cutover *c, const struct playbook_section *s, const char *key,
                 const char *side, struct error *err)
{
    const char *command = playbook_str(s, key);
    char *env[5] = {
        xstrfmt("PGCUTOVER_RUN=%s", c->names.run), xstrfmt("PGCUTOVER_DIR=%s", c->dir.path),
        xstrfmt("PGCUTOVER_STEP=%s", step_name(c)), xstrfmt("PGCUTOVER_SIDE=%s", side), NULL};
    char *log = cutover_file(c, "logs/commands.log");
    struct process_options o = {.env = (const char *const *) env,
                                .cwd = playbook_dir(c->pb),
                                .log_path = log,
                                .deadline_us = clock_us() + playbook_us(s, "timeout")};
    bool ok = !command || process_shell(command, &o, err);

    for (int i = 0; env[i]; i++)
        free(env[i]);
    free(log);
    return ok;
}
