/* main.c - the dispatcher and the command table. */
#include "cmd.h"

#include "base/alloc.h"
#include "base/human.h"
#include "steps/pause_guard.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct command commands[] = {
    {"check", "PLAYBOOK", 1, 1, OPT_JSON | OPT_PLAYBOOK, "preflight only; changes nothing",
     "Exit status 0 when no check failed, 3 when one did.\n\nExample:\n  pgcutover check "
     "shop.ini\n",
     cmd_check},
    {"plan", "PLAYBOOK", 1, 1, OPT_PLAYBOOK, "every step, what it would issue, and its undo",
     "Connects to read catalogs; changes nothing.\n\nExample:\n  pgcutover plan shop.ini\n",
     cmd_plan},
    {"map", "[RUN]", 0, 1, 0, "the map: derived, declared, unresolved",
     "Shows how rows of blue become rows of the migrated clone of a run. Exit status 3 when a "
     "table is unresolved.\n\n"
     "Example:\n  pgcutover map shop-v42\n",
     cmd_map},
    {"rehearse", "PLAYBOOK", 1, 1, OPT_JSON | OPT_PLAYBOOK,
     "the procedure up to the gate, on a scratch clone",
     "No fence, no flip. Ends in go (0) or no-go (3) against [thresholds], and drops what it "
     "made.\n\n"
     "Example:\n  pgcutover rehearse shop.ini\n",
     cmd_rehearse},
    {"run", "PLAYBOOK", 1, 1, OPT_YES | OPT_UNTIL | OPT_PAUSE_AFTER | OPT_PLAYBOOK | OPT_JSON,
     "the guided cutover",
     "Asks at its gates, or waits there for `pgcutover control`; --yes answers go, never over a "
     "failed check.\n\n"
     "Example:\n  pgcutover run shop.ini\n",
     cmd_run},
    {"resume", "[RUN]", 0, 1, OPT_YES | OPT_UNTIL | OPT_PAUSE_AFTER | OPT_NEW_PLAYBOOK | OPT_JSON,
     "go on after a crash, a stop, a mended fault",
     "--playbook FILE takes an edited playbook (a rule added to its map) instead of the run's "
     "copy.\n\n"
     "Example:\n  pgcutover resume shop-v42\n",
     cmd_resume},
    {"status", "[RUN]", 0, 1, OPT_JSON | OPT_WATCH, "where a run stands",
     "Example:\n  pgcutover status --json shop-v42\n", cmd_status},
    {"control", "RUN VERB", 1, 2, 0, "to a live run: go, wait, stop, abort",
     "Answers the gate that a run waits at; stop and abort also work between gates.\n\n"
     "Example:\n  pgcutover control shop-v42 go\n",
     cmd_control},
    {"verify", "[RUN]", 0, 1, OPT_JSON, "compare now, every row, at one LSN",
     "For a stopped run that has not been switched.\n\nExample:\n  pgcutover verify shop-v42\n",
     cmd_verify},
    {"abort", "[RUN]", 0, 1, OPT_YES | OPT_KEEP_CLONE | OPT_JSON, "before open: undo everything",
     "Blue is left exactly as it was. --keep-clone leaves green in place.\n\n"
     "Example:\n  pgcutover abort shop-v42\n",
     cmd_abort},
    {"rollback", "[RUN]", 0, 1, OPT_YES | OPT_LOSE_WRITES | OPT_JSON, "after open: back to blue",
     "Green's writes since it opened do not come along in this version: they are counted by table, "
     "and --lose-writes\n"
     "is needed to leave them behind. Before open it is the same as abort.\n\n"
     "Example:\n  pgcutover rollback shop-v42 --yes\n",
     cmd_rollback},
    {"finish", "[RUN]", 0, 1, OPT_YES | OPT_UNFENCE | OPT_JSON, "end a run that was switched",
     "Drops what the run still has on both servers. Blue keeps its fence, so that no forgotten "
     "client writes there;\n"
     "--unfence-blue takes it away too.\n\nExample:\n  pgcutover finish shop-v42\n",
     cmd_finish},
    {"list", "", 0, 0, OPT_JSON, "the runs here",
     "Example:\n  pgcutover list --dir /var/lib/pgcutover\n", cmd_list},
    {"reference", "", 0, 0, OPT_FORMAT, "the playbook's sections and keys",
     "--format text, markdown or roff.\n\nExample:\n  pgcutover reference | less\n", cmd_reference},
    {"guard-process", "", 4, 4, 0, NULL, NULL, cmd_guard_process},
    {0}};

enum {
    LONG_DIR = 256,
    LONG_UNTIL,
    LONG_PAUSE_AFTER,
    LONG_SET,
    LONG_OVERLAY,
    LONG_KEEP,
    LONG_LOSE,
    LONG_PLAYBOOK,
    LONG_UNFENCE,
    LONG_FORMAT,
    LONG_JSON,
    LONG_WATCH,
    LONG_VERSION
};

static const struct option long_options[] = {
    {"dir", required_argument, NULL, LONG_DIR},
    {"yes", no_argument, NULL, 'y'},
    {"help", no_argument, NULL, 'h'},
    {"quiet", no_argument, NULL, 'q'},
    {"json", no_argument, NULL, LONG_JSON},
    {"watch", no_argument, NULL, LONG_WATCH},
    {"until", required_argument, NULL, LONG_UNTIL},
    {"pause-after", required_argument, NULL, LONG_PAUSE_AFTER},
    {"set", required_argument, NULL, LONG_SET},
    {"overlay", required_argument, NULL, LONG_OVERLAY},
    {"keep-clone", no_argument, NULL, LONG_KEEP},
    {"lose-writes", no_argument, NULL, LONG_LOSE},
    {"playbook", required_argument, NULL, LONG_PLAYBOOK},
    {"unfence-blue", no_argument, NULL, LONG_UNFENCE},
    {"format", required_argument, NULL, LONG_FORMAT},
    {0}};

static const struct {
    unsigned bit;
    int opt;
    const char *text;
} option_help[] = {
    {OPT_YES, 'y', "  -y, --yes               answer go at every gate"},
    {OPT_JSON, LONG_JSON, "      --json              the result as JSON on standard output"},
    {OPT_UNTIL, LONG_UNTIL, "      --until STEP        stop after STEP (exit status 4, resumable)"},
    {OPT_PAUSE_AFTER, LONG_PAUSE_AFTER, "      --pause-after STEP  a gate after STEP"},
    {OPT_PLAYBOOK, LONG_SET, "      --set SECTION.KEY=VALUE  override a key of the playbook"},
    {OPT_PLAYBOOK, LONG_OVERLAY, "      --overlay FILE      lay a second playbook over the first"},
    {OPT_WATCH, LONG_WATCH, "      --watch             again every second"},
    {OPT_KEEP_CLONE, LONG_KEEP, "      --keep-clone        leave green in place"},
    {OPT_LOSE_WRITES, LONG_LOSE, "      --lose-writes       leave green's writes behind"},
    {OPT_NEW_PLAYBOOK, LONG_PLAYBOOK, "      --playbook FILE     an edited playbook for the run"},
    {OPT_UNFENCE, LONG_UNFENCE, "      --unfence-blue      let blue take writes again"},
    {OPT_FORMAT, LONG_FORMAT, "      --format FORMAT     text, markdown or roff"}};

static void print_usage(FILE *out)
{
    fprintf(out, "pgcutover moves a live PostgreSQL database to a migrated clone, and back, "
                 "without losing a write.\n\n"
                 "Usage: pgcutover COMMAND [OPTIONS] [ARGUMENTS]\n\n");
    for (const struct command *c = commands; c->name; c++)
        if (c->help)
            fprintf(out, "  %-9s %-9s  %s\n", c->name, c->args, c->summary);
    fprintf(out,
            "\nEvery command: --help (with an example), --dir DIR (where runs live; PGCUTOVER_DIR, "
            "./runs), "
            "--quiet.\nRUN is a name or a directory; by default the only run that has not ended.\n"
            "Exit status: 0 done; 1 failed, the side that served serves; 2 usage or playbook; 3 "
            "no-go;\n"
            "4 stopped, can be resumed; 5 an operator is needed.\n");
}

static void print_help(const struct command *c)
{
    printf("Usage: pgcutover %s [OPTIONS] %s\n%s\n\n%s\nOptions:\n", c->name, c->args, c->summary,
           c->help);
    for (size_t i = 0; i < sizeof option_help / sizeof *option_help; i++)
        if (c->options & option_help[i].bit)
            printf("%s\n", option_help[i].text);
    printf("      --dir DIR           where runs live\n  -q, --quiet             no progress on "
           "standard error\n"
           "  -h, --help              this text\n");
}

static bool accepted(const struct command *c, int opt)
{
    for (size_t i = 0; i < sizeof option_help / sizeof *option_help; i++)
        if (option_help[i].opt == opt)
            return (c->options & option_help[i].bit) != 0;
    return true;
}

static const char *option_name(int opt)
{
    for (const struct option *o = long_options; o->name; o++)
        if (o->val == opt)
            return o->name;
    return "?";
}

static void store(struct options *o, int opt)
{
    switch (opt) {
    case LONG_DIR:
        o->dir = optarg;
        break;
    case 'y':
        o->yes = true;
        break;
    case 'q':
        o->quiet = true;
        break;
    case LONG_JSON:
        o->json = true;
        break;
    case LONG_WATCH:
        o->watch = true;
        break;
    case LONG_UNTIL:
        o->until = optarg;
        break;
    case LONG_PAUSE_AFTER:
        o->pause_after = optarg;
        break;
    case LONG_SET:
        *VEC_ADD(o->sets, o->nsets, o->capsets) = optarg;
        break;
    case LONG_OVERLAY:
        o->overlay = optarg;
        break;
    case LONG_KEEP:
        o->keep_clone = true;
        break;
    case LONG_LOSE:
        o->lose_writes = true;
        break;
    case LONG_PLAYBOOK:
        o->playbook = optarg;
        break;
    case LONG_UNFENCE:
        o->unfence_blue = true;
        break;
    case LONG_FORMAT:
        o->format = optarg;
        break;
    default:
        BUG("option %d", opt);
    }
}

static int run_command(const struct command *c, int argc, char **argv)
{
    struct options o = {0};
    int opt, status;

    optind = 1;
    while ((opt = getopt_long(argc, argv, "yhq", long_options, NULL)) != -1) {
        if (opt == 'h') {
            print_help(c);
            free(o.sets);
            return 0;
        }
        if (opt == '?' || !accepted(c, opt)) {
            if (opt != '?')
                fprintf(stderr, "pgcutover %s: does not take --%s\n", c->name, option_name(opt));
            fprintf(stderr, "Try `pgcutover %s --help`.\n", c->name);
            free(o.sets);
            return 2;
        }
        store(&o, opt);
    }
    o.args = argv + optind;
    o.nargs = argc - optind;
    if (o.nargs < c->min_args || o.nargs > c->max_args) {
        fprintf(stderr, "Usage: pgcutover %s [OPTIONS] %s\nTry `pgcutover %s --help`.\n", c->name,
                c->args, c->name);
        free(o.sets);
        return 2;
    }
    *VEC_ADD(o.sets, o.nsets, o.capsets) = NULL;
    status = c->run(&o);
    free(o.sets);
    return status;
}

static int unknown_command(const char *name)
{
    const char *names[sizeof commands / sizeof *commands] = {0};
    size_t n = 0;
    const char *near;

    for (const struct command *c = commands; c->name; c++)
        if (c->help)
            names[n++] = c->name;
    near = human_nearest(name, names);
    fprintf(stderr, "pgcutover: unknown command \"%s\"", name);
    if (near)
        fprintf(stderr, "; did you mean \"%s\"?", near);
    fprintf(stderr, "\nTry `pgcutover --help`.\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("pgcutover %s (libpq %d)\n", PGCUTOVER_VERSION, PQlibVersion());
        return 0;
    }
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, argv[1]) == 0)
            return run_command(c, argc - 1, argv + 1);
    return unknown_command(argv[1]);
}

int cmd_guard_process(const struct options *o)
{
    return pguard_main(o->args[0], o->args[1], (int) strtol(o->args[2], NULL, 10),
                       (int) strtol(o->args[3], NULL, 10));
}
