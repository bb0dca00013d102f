/* A playbook's text to its values: what libinih makes of lines, overlay, --set, variables, files,
 * and back. */
#include "base/alloc.h"
#include "playbook/playbook_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD "[cutover]\nname = shop\n[blue]\nconninfo = service=b\n[green]\nconninfo = service=g\n"

static bool from_test(const char *path, struct strbuf *out, struct error *err)
{
    if (strcmp(path, "/books/sql/total.sql") == 0)
        strbuf_addstr(out, "total * 100\n-- ${HOME}\n\n");
    else if (strcmp(path, "/books/empty") == 0)
        strbuf_addstr(out, " \n");
    else if (strcmp(path, "/books/nul") == 0)
        strbuf_add(out, "a\0b", 3);
    else if (strcmp(path, "/books/latin1") == 0)
        strbuf_addstr(out, "\xe4");
    else
        return error_set(err, ERR_IO, "could not open \"%s\"", path);
    return true;
}

static struct playbook *load3(const char *text, const char *overlay, const char *const *sets)
{
    struct playbook *pb;
    struct error err = {0};
    struct playbook_input in = {
        .path = "/books/shop.ini",
        .dir = "/books",
        .file = {"shop.ini", text, strlen(text)},
        .overlay = {"staging.ini", overlay, overlay ? strlen(overlay) : 0},
        .sets = sets,
        .read = from_test,
    };

    if (!playbook_load_texts(&pb, &in, &err))
        fail_msg("%s", err.message);
    return pb;
}

static struct playbook *load(const char *text)
{
    return load3(text, NULL, NULL);
}

static const char *named(const struct playbook *pb, const char *kind, const char *key)
{
    return playbook_str(playbook_at(pb, kind, 0), key);
}

static void values_and_defaults(void **state)
{
    (void) state;
    struct playbook *pb =
        load(HEAD "[clone]\njobs = 4\nkeep_archive=yes\n[thresholds]\nwrite_pause = 750ms\n"
                  "lag = 64MB\n[migrations]\ndirectory = ./sql/v42\n");
    const struct playbook_section *clone = playbook_section(pb, "clone");
    const struct playbook_section *limits = playbook_section(pb, "thresholds");

    assert_string_equal(playbook_path(pb), "/books/shop.ini");
    assert_string_equal(playbook_dir(pb), "/books");
    assert_string_equal(playbook_str(playbook_section(pb, "blue"), "conninfo"), "service=b");
    assert_int_equal(playbook_int(clone, "jobs"), 4);
    assert_true(playbook_bool(clone, "keep_archive"));
    assert_true(playbook_bool(clone, "check_space"));
    assert_string_equal(playbook_str(clone, "method"), "archive");
    assert_true(playbook_given(clone, "jobs"));
    assert_false(playbook_given(clone, "method"));
    assert_true(playbook_section_given(clone));
    assert_int_equal(playbook_section_line(clone), 7);
    assert_int_equal(playbook_us(limits, "write_pause"), 750000);
    assert_int_equal(playbook_bytes(limits, "lag"), 67108864);
    assert_false(playbook_given(limits, "total"));
    assert_int_equal(playbook_us(limits, "total"), 0);
    assert_string_equal(playbook_str(playbook_section(pb, "migrations"), "directory"),
                        "/books/sql/v42");

    const struct playbook_section *fence = playbook_section(pb, "fence");
    assert_false(playbook_section_given(fence));
    assert_string_equal(playbook_section_name(fence), "");
    assert_int_equal(playbook_us(fence, "lock_timeout"), 500000);
    assert_int_equal(playbook_bytes(playbook_section(pb, "capture"), "spool_limit"), INT64_C(20)
                                                                                         << 30);
    assert_null(playbook_str(playbook_section(pb, "rehearsal"), "conninfo"));
    assert_int_equal(playbook_count(pb, "traffic"), 0);
    playbook_free(pb);
}

static void lines_comments_and_continuations(void **state)
{
    (void) state;
    struct playbook *pb =
        load("\xef\xbb\xbf; a comment\n# another\r\n" HEAD "[map public.orders]\r\n"
             "up.a = one ; two # three\n"
             "  four = five\n"
             "\n"
             "\t# not part of it\n"
             "    [six] : seven\n"
             "up.b =\n  first\n  second\n"
             "table = sales.orders\r\n"
             "key = a, \"b,c\",\n   d");
    const struct playbook_section *s = playbook_at(pb, "map", 0);

    assert_string_equal(playbook_str(s, "up.a"), "one ; two # three\nfour = five\n[six] : seven");
    assert_string_equal(playbook_str(s, "up.b"), "first\nsecond");
    assert_string_equal(playbook_str(s, "table"), "sales.orders");
    assert_int_equal(playbook_section_line(s), 9);
    playbook_free(pb);

    pb = load(HEAD "[map public.orders]\nkey = a, \"b,c\"\n   d\n");
    const char *const *key = playbook_list(playbook_at(pb, "map", 0), "key");
    assert_string_equal(key[0], "a");
    assert_string_equal(key[1], "\"b,c\"");
    assert_string_equal(key[2], "d");
    assert_null(key[3]);
    assert_null(playbook_list(playbook_at(pb, "map", 0), "volatile"));
    playbook_free(pb);
}

/* libinih on its own: lines cut at 200 bytes, names of sections and of continued keys at 49. */
static void nothing_is_cut(void **state)
{
    (void) state;
    const size_t sizes[] = {195, 196, 197, 198, 199, 200, 201, 4096, 65536, (1 << 20) - 10};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *value = xmalloc(sizes[i] + 1);
        memset(value, 'v', sizes[i]);
        value[sizes[i]] = '\0';
        value[sizes[i] / 2] = ';';
        value[sizes[i] / 2 - 1] = ' ';
        char *text = xstrfmt(HEAD "[migrations]\ncommand = %s\nsequence_gap = 7\n", value);
        struct playbook *pb = load(text);
        assert_string_equal(playbook_str(playbook_section(pb, "migrations"), "command"), value);
        assert_int_equal(playbook_int(playbook_section(pb, "migrations"), "sequence_gap"), 7);
        playbook_free(pb);
        free(text);
        free(value);
    }

    const char *long_name =
        "a_schema_with_a_rather_long_name_1.a_table_with_a_rather_long_name_2 -> "
        "a_schema_with_a_rather_long_name_3.a_table_with_a_rather_long_name_4";
    const char *long_key = "up.a_column_with_sixty_three_bytes_which_is_as_long_as_it_may_be_123";
    char *text = xstrfmt(HEAD "[map %s]\n%s = 1\n  + 2\n%sx = 3\n", long_name, long_key, long_key);
    struct playbook *pb = load(text);
    const struct playbook_section *s = playbook_at(pb, "map", 0);
    assert_string_equal(playbook_section_name(s), long_name);
    assert_string_equal(playbook_str(s, long_key), "1\n+ 2");
    playbook_free(pb);
    free(text);
}

static void named_sections_in_file_order(void **state)
{
    const char *tail;
    const char *value;
    (void) state;
    struct playbook *pb =
        load(HEAD "[map  public.users   ->  public.profiles ]\n"
                  "[map public.\"we]ird  name\"]\nskip = yes\n[map tenant_*.orders]\n"
                  "up.b = 2\ndown.x = 9\nup.a = 1\n"
                  "[traffic edge]\ndriver = pgbouncer\nadmin = host=p1\nadmin.2 = host=p2\n"
                  "[deploy app]\n");

    assert_int_equal(playbook_count(pb, "map"), 3);
    assert_string_equal(playbook_section_name(playbook_at(pb, "map", 0)),
                        "public.users -> public.profiles");
    assert_string_equal(playbook_section_name(playbook_at(pb, "map", 1)),
                        "public.\"we]ird  name\"");
    const struct playbook_section *s = playbook_at(pb, "map", 2);
    assert_true(playbook_prefixed(s, "up.", 0, &tail, &value));
    assert_string_equal(tail, "b");
    assert_string_equal(value, "2");
    assert_true(playbook_prefixed(s, "up.", 1, &tail, &value));
    assert_string_equal(tail, "a");
    assert_false(playbook_prefixed(s, "up.", 2, &tail, &value));
    assert_true(playbook_prefixed(s, "down.", 0, &tail, &value));
    assert_string_equal(tail, "x");
    assert_true(playbook_prefixed(playbook_at(pb, "traffic", 0), "admin.", 0, &tail, &value));
    assert_string_equal(tail, "2");
    assert_int_equal(playbook_count(pb, "deploy"), 1);
    assert_int_equal(playbook_us(playbook_at(pb, "deploy", 0), "timeout"), 60000000);
    playbook_free(pb);
}

static void variables_and_files(void **state)
{
    (void) state;
    setenv("PB_DIR", "sql", 1);
    setenv("PB_AT", "@/etc/passwd", 1);
    struct playbook *pb = load(
        HEAD "[map a.b]\nup.a = @${PB_DIR}/total.sql\nup.b = $${PB_DIR} ${PB_DIR}${PB_DIR} $x\n"
             "up.c = ${PB_AT}\nup.d = @@ total\ntable = @@x");
    const struct playbook_section *s = playbook_at(pb, "map", 0);

    assert_string_equal(playbook_str(s, "up.a"), "total * 100\n-- ${HOME}");
    assert_string_equal(playbook_str(s, "up.b"), "${PB_DIR} sqlsql $x");
    assert_string_equal(playbook_str(s, "up.c"), "@/etc/passwd");
    assert_string_equal(playbook_str(s, "up.d"), "@ total");
    assert_string_equal(playbook_str(s, "table"), "@x");
    playbook_free(pb);
}

static void overlay_lies_over(void **state)
{
    (void) state;
    /* the variable that only the replaced value wants is not asked for */
    struct playbook *pb = load3(
        HEAD
        "[rehearsal]\nconninfo = ${PB_NOT_SET}\n[migrations]\ndirectory = m\n[hook before-hold]\n"
        "command = a\ntimeout = 1s\n",
        "[rehearsal]\nconninfo = service=r\n[migrations]\ndirectory =\ncommand = make\n"
        "[hook before-hold]\ncommand = b\n[hook after-open]\ncommand = c\n",
        NULL);

    assert_string_equal(playbook_str(playbook_section(pb, "rehearsal"), "conninfo"), "service=r");
    assert_null(playbook_str(playbook_section(pb, "migrations"), "directory"));
    assert_false(playbook_given(playbook_section(pb, "migrations"), "directory"));
    assert_int_equal(playbook_count(pb, "hook"), 2);
    assert_string_equal(named(pb, "hook", "command"), "b");
    assert_int_equal(playbook_us(playbook_at(pb, "hook", 0), "timeout"), 1000000);
    playbook_free(pb);
}

static void sets_find_their_key(void **state)
{
    (void) state;
    const char *const sets[] = {
        "clone.jobs=7",
        "clone.jobs = 8",
        "traffic edge.driver=command",
        "map public.up.orders.up.total=a.b=c",
        "map public.users -> public.people.table=x.y",
        "map a.\"b.skip\".skip=yes",
        "migrations.command=one\n two\n\n# gone\nthree",
        NULL,
    };
    struct playbook *pb = load3(HEAD "[map public.up.orders]\n", NULL, sets);

    assert_int_equal(playbook_int(playbook_section(pb, "clone"), "jobs"), 8);
    assert_string_equal(named(pb, "traffic", "driver"), "command");
    assert_int_equal(playbook_count(pb, "map"), 3);
    assert_string_equal(playbook_str(playbook_at(pb, "map", 0), "up.total"), "a.b=c");
    assert_string_equal(playbook_section_name(playbook_at(pb, "map", 1)),
                        "public.users -> public.people");
    assert_string_equal(playbook_section_name(playbook_at(pb, "map", 2)), "a.\"b.skip\"");
    assert_string_equal(playbook_str(playbook_section(pb, "migrations"), "command"),
                        "one\ntwo\nthree");
    playbook_free(pb);
}

static void written_and_read_again(void **state)
{
    (void) state;
    setenv("PB_DIR", "sql", 1);
    const char *const sets[] = {"clone.jobs=3", "hook after-open.command=echo $${x}\n  done", NULL};
    struct playbook *pb = load3(HEAD "[migrations]\ndirectory = ${PB_DIR}/v1\n[map \"p]q\".x]\n"
                                     "up.a = @sql/total.sql\nup.b = x ; y\n  # gone\n  z\n",
                                "[green]\nconninfo = service=staging\n", sets);
    struct strbuf first = {0};
    struct strbuf second = {0};
    struct error err = {0};
    struct playbook *copy;

    playbook_write(pb, &first);
    assert_non_null(strstr(first.data, "; from: /books/shop.ini\n"));
    assert_non_null(strstr(first.data, "\nbase_dir = /books\n"));
    assert_non_null(strstr(first.data, "directory = ${PB_DIR}/v1\n"));
    assert_non_null(strstr(first.data, "up.a = @sql/total.sql\n"));
    struct playbook_input in = {
        .path = "/runs/shop/playbook.ini",
        .dir = "/runs/shop",
        .file = {"playbook.ini", first.data, first.len},
        .read = from_test,
    };
    assert_true(playbook_load_texts(&copy, &in, &err));
    assert_string_equal(playbook_dir(copy), "/books");
    assert_string_equal(playbook_str(playbook_section(copy, "migrations"), "directory"),
                        "/books/sql/v1");
    assert_string_equal(playbook_str(playbook_section(copy, "green"), "conninfo"),
                        "service=staging");
    assert_string_equal(named(copy, "map", "up.a"), "total * 100\n-- ${HOME}");
    assert_string_equal(named(copy, "map", "up.b"), "x ; y\nz");
    assert_string_equal(named(copy, "hook", "command"), "echo ${x}\ndone");
    assert_int_equal(playbook_int(playbook_section(copy, "clone"), "jobs"), 3);
    playbook_write(copy, &second);
    assert_string_equal(strchr(first.data, '\n'), strchr(second.data, '\n'));
    playbook_free(copy);
    playbook_free(pb);
    strbuf_release(&first);
    strbuf_release(&second);
}

static void from_disk(void **state)
{
    (void) state;
    char dir[] = "/tmp/pgcutover-playbook-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = xstrfmt("%s/a.ini", dir);
    char *secret = xstrfmt("%s/pw", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    const char text[] = HEAD "[rehearsal]\nconninfo = @pw\n";
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    fd = open(secret, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "password=x\n", 11), 11);
    close(fd);

    struct playbook *pb;
    struct error err = {0};
    assert_true(playbook_load(&pb, &(struct playbook_source){.path = path}, &err));
    assert_string_equal(playbook_path(pb), path);
    assert_string_equal(playbook_dir(pb), dir);
    assert_string_equal(playbook_str(playbook_section(pb, "rehearsal"), "conninfo"), "password=x");
    playbook_free(pb);
    unlink(secret);
    assert_false(playbook_load(&pb, &(struct playbook_source){.path = path}, &err));
    assert_null(pb);
    assert_non_null(strstr(err.message, ":8: conninfo of [rehearsal] is to come from a file: "));
    unlink(path);
    assert_false(playbook_load(&pb, &(struct playbook_source){.path = path}, &err));
    assert_int_equal(err.code, ERR_PLAYBOOK);
    assert_non_null(strstr(err.message, "a.ini:1: can't read it: "));
    assert_non_null(strstr(err.message, "No such file"));
    rmdir(dir);
    assert_false(playbook_load(&pb, &(struct playbook_source){.path = path}, &err));
    assert_int_equal(err.code, ERR_PLAYBOOK);
    free(path);
    free(secret);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_defaults), cmocka_unit_test(lines_comments_and_continuations),
        cmocka_unit_test(nothing_is_cut),      cmocka_unit_test(named_sections_in_file_order),
        cmocka_unit_test(variables_and_files), cmocka_unit_test(overlay_lies_over),
        cmocka_unit_test(sets_find_their_key), cmocka_unit_test(written_and_read_again),
        cmocka_unit_test(from_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
