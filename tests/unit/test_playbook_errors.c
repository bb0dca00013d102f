/* What is wrong with a playbook, said with place and remedy, and without secrets; and the
 * reference. */
#include "base/alloc.h"
#include "playbook/playbook_internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "[cutover]\nname = shop\n[blue]\nconninfo = service=b\n[green]\nconninfo = service=g\n"

static bool no_files(const char *path, struct strbuf *out, struct error *err)
{
    (void) out;
    return error_set(err, ERR_IO, "could not open \"%s\"", path);
}

static struct error fails_n(const char *text, size_t len, const char *overlay,
                            const char *const *sets)
{
    struct playbook *pb;
    struct error err = {0};
    struct playbook_input in = {
        .path = "/books/shop.ini",
        .dir = "/books",
        .file = {"shop.ini", text, len},
        .overlay = {"staging.ini", overlay, overlay ? strlen(overlay) : 0},
        .sets = sets,
        .read = no_files,
    };

    assert_false(playbook_load_texts(&pb, &in, &err));
    assert_null(pb);
    assert_int_equal(err.code, ERR_PLAYBOOK);
    return err;
}

static void says(const char *text, const char *message)
{
    struct error err = fails_n(text, strlen(text), NULL, NULL);
    assert_string_equal(err.message, message);
    assert_string_equal(err.detail, "");
}

static void set_says(const char *set, const char *message)
{
    struct error err = fails_n(HEAD, strlen(HEAD), NULL, (const char *const[]){set, NULL});
    assert_string_equal(err.message, message);
}

static void unknown_names(void **state)
{
    (void) state;
    says(HEAD "[trafic edge]\nx = 1\n",
         "shop.ini:7: unknown section [trafic]; did you mean [traffic]?");
    says(HEAD "[zzz]\n", "shop.ini:7: unknown section [zzz]");
    says(HEAD "[clone]\njbos = 4\n",
         "shop.ini:8: unknown key \"jbos\" in [clone]; did you mean \"jobs\"?");
    says(HEAD "[map a.b]\nupp.x = 4\n",
         "shop.ini:8: unknown key \"upp.x\" in [map a.b]; did you mean \"up.x\"?");
    says(HEAD "[map a.b]\nup. = 4\n",
         "shop.ini:8: unknown key \"up.\" in [map a.b]; did you mean \"up.COLUMN\"?");
    says(HEAD "[traffic e]\ndriver = command\nadmin.1 = host=x\n",
         "shop.ini:9: \"admin.1\" must be admin.2, admin.3 and so on");
    struct error err =
        fails_n(HEAD "[app]\nzzz = 1\n", strlen(HEAD "[app]\nzzz = 1\n"), NULL, NULL);
    assert_string_equal(err.message, "shop.ini:8: unknown key \"zzz\" in [app]");
    assert_string_equal(err.hint, "The keys of [app] are compatible.");
    /* a mistyped name is not called missing as well */
    says("[cutover]\nnmae = x\n[blue]\nconninfo = a=b\n[green]\nconninfo = a=b\n",
         "shop.ini:2: unknown key \"nmae\" in [cutover]; did you mean \"name\"?");
}

static void lines_that_are_nothing(void **state)
{
    (void) state;
    says("x = 1\n" HEAD, "shop.ini:1: key \"x\" before any [section]");
    says(HEAD "conninfo\n", "shop.ini:7: neither [section] nor key = value");
    says(HEAD "[app]\ncompatible: both\n", "shop.ini:8: neither [section] nor key = value");
    says(HEAD "[app\n", "shop.ini:7: section header without its ]");
    says(HEAD "[app] ; mine\n", "shop.ini:7: text behind the ] of a section header");
    says(HEAD "[app]\n= both\n", "shop.ini:8: unknown key \"\" in [app]");
    says(HEAD "[clone]\njobs =\n",
         "shop.ini:8: jobs of [clone] has no value; without the line it takes its default");
    struct error err = fails_n(HEAD "a\0b\n", sizeof HEAD + 3, NULL, NULL);
    assert_string_equal(err.message, "shop.ini:7: a NUL byte");
    assert_non_null(strstr(fails_n(HEAD "\n\xe4\n", strlen(HEAD) + 3, NULL, NULL).message,
                           "shop.ini:8: not UTF-8"));
}

static void twice(void **state)
{
    (void) state;
    says(HEAD "[clone]\njobs = 1\njobs = 2\n",
         "shop.ini:9: duplicate key \"jobs\" in [clone], first at line 8");
    says(HEAD "[map a.b -> c.d]\n[app]\n[map a.b  ->  c.d]\n",
         "shop.ini:9: duplicate section [map a.b -> c.d], first at line 7");
    struct error err = fails_n(HEAD, strlen(HEAD), "[app]\n[clone]\njobs = 1\njobs = 2\n", NULL);
    assert_string_equal(err.message,
                        "staging.ini:4: duplicate key \"jobs\" in [clone], first at line 3");
}

static void values_of_the_wrong_kind(void **state)
{
    (void) state;
    says(HEAD "[clone]\njobs = many\n",
         "shop.ini:8: jobs of [clone] is not a whole number, such as 2: \"many\"");
    says(HEAD "[clone]\njobs = 100\n",
         "shop.ini:8: jobs of [clone] is out of range: at least 1, at most 64: \"100\"");
    says(HEAD "[traffic e]\ndriver = haproxy\n",
         "shop.ini:8: driver of [traffic e] is not one of pgbouncer, command: \"haproxy\"");
    says("[cutover]\nname = Shop 42\n[blue]\nconninfo = a=b\n[green]\nconninfo = a=b\n",
         "shop.ini:2: name of [cutover] is not 1 to 40 of a-z, 0-9, _ and -, such as shop-v42: "
         "\"Shop 42\"");
    says(HEAD "[gate before-hold]\nwindow = at night\n",
         "shop.ini:8: window of [gate before-hold] is not a time window, such as 02:00-04:00: \"at "
         "night\"");
    says(HEAD "[gate before-hodl]\n", "shop.ini:7: section [gate before-hodl] must be called "
                                      "before-STEP; did you mean \"before-hold\"?");
    says(HEAD "[check]\n", "shop.ini:7: section [check] needs a name, such as [check NAME]");
    says(HEAD "[app x]\n", "shop.ini:7: section [app x] takes no name; write [app]");
}

static void what_is_missing(void **state)
{
    (void) state;
    unsetenv("PB_NOT_SET");
    setenv("PB_EMPTY", "", 1);
    says("[cutover]\nname = shop\n[blue]\n\n[green]\nconninfo = a=b\n",
         "shop.ini:3: [blue] needs conninfo, such as conninfo = host=db1 dbname=shop "
         "user=pgcutover");
    says("[cutover]\nname = shop\n[blue]\nconninfo = a=b\n",
         "shop.ini:4: no section [green], which needs conninfo");
    says(HEAD "[traffic e]\n", "shop.ini:7: [traffic e] needs driver, one of pgbouncer|command");
    says(HEAD "[check c]\nwhen = before-hold\n", "shop.ini:7: [check c] needs sql or command");
    says(HEAD "[migrations]\ndirectory = a\ncommand = b\n",
         "shop.ini:9: command of [migrations] can't stand beside directory; one of them runs the "
         "migrations");
    says(HEAD "[map a.b]\ntable = ${PB_NOT_SET}\n",
         "shop.ini:8: table of [map a.b] wants ${PB_NOT_SET}, which is not set in the environment: "
         "\"${PB_NOT_SET}\"");
    says(HEAD "[gate before-hold]\nwindow = ${PB_EMPTY}\n",
         "shop.ini:8: window of [gate before-hold] is empty: \"${PB_EMPTY}\"");
    says(HEAD "[map a.b]\ntable = ${x-y}\n", "shop.ini:8: table of [map a.b] has a ${ that is not "
                                             "${NAME}; a literal one is written $${: \"${x-y}\"");
    says(HEAD "[map a.b]\nup.x = @no.sql\n", "shop.ini:8: up.x of [map a.b] is to come from a "
                                             "file: could not open \"/books/no.sql\": \"@no.sql\"");
}

static void too_long(void **state)
{
    (void) state;
    size_t len = PLAYBOOK_VALUE_MAX + 1;
    char *value = xmalloc(len + 1);
    memset(value, 'v', len);
    value[len] = '\0';
    char *text = xstrfmt(HEAD "[migrations]\ncommand = %s\n", value);
    struct error err = fails_n(text, strlen(text), NULL, NULL);
    assert_non_null(strstr(err.message, "shop.ini:8: command of [migrations] is over 1 MB"));
    free(text);
    free(value);
}

static void bad_sets(void **state)
{
    (void) state;
    set_says("clone.jobs", "--set: no \"=\" in number 1; write section.key=value");
    set_says("clone=4", "--set: clone: no key; write section.key=value");
    set_says("traffic edge=4", "--set: traffic edge: no key; write \"section name.key\"=value");
    set_says("clnoe.jobs=4", "--set: clnoe.jobs: unknown section [clnoe]; did you mean [clone]?");
    set_says("clone.jbos=4", "--set: unknown key \"jbos\" in [clone]; did you mean \"jobs\"?");
    set_says("clone.jobs=x", "--set: jobs of [clone] is not a whole number, such as 2: \"x\"");
    set_says("traffic edge.drivr=command",
             "--set: unknown key \"drivr\" in [traffic edge]; did you mean \"driver\"?");
    set_says("gate before-hodl.window=01:00-02:00",
             "--set: gate before-hodl.window: section [gate before-hodl] must be called "
             "before-STEP; did you "
             "mean \"before-hold\"?");
    set_says("map a]b.skip=yes", "--set: number 1 has no usable section name");
    set_says("map a.b.up.\"c=d\"=1", "--set: a key of [map] with = or : in it");
    set_says("clone.jobs=\xff", "--set: number 1 is not UTF-8");
}

static void first_by_place_and_how_many(void **state)
{
    (void) state;
    const char text[] = HEAD "[clone]\njobs = x\n[app]\ncompatible = x\nzzz = 1\n";
    struct error err = fails_n(text, strlen(text), "[bleu]\n", NULL);

    assert_string_equal(err.message,
                        "shop.ini:8: jobs of [clone] is not a whole number, such as 2: \"x\"");
    assert_string_equal(err.detail,
                        "and 3 more problems:\n"
                        "shop.ini:10: compatible of [app] is not one of both, switch: \"x\"\n"
                        "shop.ini:11: unknown key \"zzz\" in [app]\n"
                        "staging.ini:1: unknown section [bleu]; did you mean [blue]?");
}

static void no_secret(const struct error *err)
{
    assert_null(strstr(err->message, "hunter2"));
    assert_null(strstr(err->detail, "hunter2"));
    assert_null(strstr(err->hint, "hunter2"));
}

static void secrets_stay_in(void **state)
{
    (void) state;
    setenv("PB_SECRET", "hunter2", 1);
    const char *const texts[] = {
        "[blue]\nconninfo = hunter2\n",
        "[blue]\nconninfo = ${PB_SECRET}\n",
        "[blue]\nconninfo = @${PB_SECRET}\n",
        "[blue]\nconninfo = ${PB_SECRET\n",
        "[blue]\nconninfo hunter2\n",
        "[blue]\nconninfo: hunter2\n",
        "[traffic e]\ngreen = hunter2 ${PB_NOT_SET}\n",
        "[clone]\njobs = ${PB_SECRET}\n",
        "[check x]\nwhen = ${PB_SECRET}\nsql = x\n",
        "[map x]\nup.x = @${PB_SECRET}\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct error err = fails_n(texts[i], strlen(texts[i]), NULL, NULL);
        no_secret(&err);
    }
    const char *const sets[] = {"blue.conninfo hunter2", "blue.conninfo=hunter2", NULL};
    struct error err = fails_n(HEAD, strlen(HEAD), NULL, sets);
    no_secret(&err);
}

static void reference_has_every_key(void **state)
{
    (void) state;
    for (enum playbook_format f = PLAYBOOK_TEXT; f <= PLAYBOOK_ROFF; f++) {
        struct strbuf out = {0};
        playbook_reference(&out, f);
        for (const struct playbook_key *k = playbook_keys; k->kind; k++) {
            char *row = f == PLAYBOOK_MARKDOWN ? xstrfmt("\n| `%s", k->key)
                        : f == PLAYBOOK_ROFF   ? xstrfmt("\n.TP\n\\fB%s", k->key)
                                               : xstrfmt("\n  %s", k->key);
            assert_non_null(strstr(out.data, row));
            free(row);
        }
        strbuf_release(&out);
    }
    struct strbuf md = {0};
    playbook_reference(&md, PLAYBOOK_MARKDOWN);
    assert_non_null(strstr(md.data, "### `[hook before-STEP|after-STEP]`\n"));
    assert_non_null(
        strstr(md.data, "| `jobs` | whole number, 1 to 64 | `2` | How many connections dump"));
    assert_non_null(strstr(md.data, "| `conninfo` | connection string | required | "));
    strbuf_release(&md);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_names),   cmocka_unit_test(lines_that_are_nothing),
        cmocka_unit_test(twice),           cmocka_unit_test(values_of_the_wrong_kind),
        cmocka_unit_test(what_is_missing), cmocka_unit_test(too_long),
        cmocka_unit_test(bad_sets),        cmocka_unit_test(first_by_place_and_how_many),
        cmocka_unit_test(secrets_stay_in), cmocka_unit_test(reference_has_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
