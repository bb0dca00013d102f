#include "sys/file.h"

#include "base/alloc.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char *scratch;
static struct error err;

static int make_scratch(void **state)
{
    (void) state;
    scratch = xstrdup("/tmp/pgcutover-unit.XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void) state;
    bool ok = file_remove_tree(scratch, &err);
    free(scratch);
    return ok ? 0 : -1;
}

static void assert_content(const char *path, const char *expected)
{
    struct strbuf sb = {0};
    assert_true(file_read(path, &sb, 1 << 20, &err));
    assert_string_equal(strbuf_cstr(&sb), expected);
    strbuf_release(&sb);
}

static void replace_keeps_mode_and_owner(void **state)
{
    char *path = xstrfmt("%s/pooler.ini", scratch);
    struct stat st;
    (void) state;

    assert_true(file_replace(path, "one", 3, 0600, &err));
    assert_content(path, "one");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);

    assert_int_equal(chmod(path, 0640), 0);
    bool root = geteuid() == 0;
    if (root)
        assert_int_equal(chown(path, 12, 34), 0);
    assert_true(file_replace(path, "two", 3, 0600, &err));
    assert_content(path, "two");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    if (root) {
        assert_int_equal(st.st_uid, 12);
        assert_int_equal(st.st_gid, 34);
    }
    free(path);
}

static void replace_goes_through_a_link(void **state)
{
    char *path = xstrfmt("%s/real", scratch);
    char *link = xstrfmt("%s/link", scratch);
    struct stat st;
    (void) state;

    assert_true(file_replace(path, "old", 3, 0600, &err));
    assert_int_equal(symlink("real", link), 0);
    assert_true(file_replace(link, "new", 3, 0600, &err));
    assert_content(path, "new");
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    free(link);
    free(path);
}

static void a_failed_replace_leaves_nothing(void **state)
{
    char *dir = xstrfmt("%s/full", scratch);
    char *target = xstrfmt("%s/target", dir);
    char *inside = xstrfmt("%s/x", target);
    (void) state;

    /* a directory in the way, which rename(2) can't replace */
    assert_true(file_make_dir(target, &err));
    assert_true(file_replace(inside, "x", 1, 0600, &err));
    assert_false(file_replace(target, "y", 1, 0600, &err));
    assert_int_equal(err.code, ERR_IO);
    struct strbuf sb = {0};
    assert_false(file_replace("/nonexistent/x", "y", 1, 0600, &err));
    assert_false(file_read("/nonexistent/x", &sb, 10, &err));

    assert_int_equal(unlink(inside), 0);
    assert_int_equal(rmdir(target), 0);
    assert_int_equal(rmdir(dir), 0); /* no temporary file stayed behind */
    free(inside);
    free(target);
    free(dir);
}

static void read_has_a_ceiling(void **state)
{
    char *path = xstrfmt("%s/large", scratch);
    struct strbuf sb = {0};
    (void) state;

    assert_true(file_replace(path, "123456", 6, 0600, &err));
    assert_true(file_read(path, &sb, 6, &err));
    strbuf_reset(&sb);
    assert_false(file_read(path, &sb, 5, &err));
    strbuf_release(&sb);
    free(path);
}

static void trees_are_made_listed_measured_and_removed(void **state)
{
    char *deep = xstrfmt("%s/a/b//c", scratch);
    char *top = xstrfmt("%s/a", scratch);
    char *file = xstrfmt("%s/a/z", scratch);
    char *dot = xstrfmt("%s/a/.hidden", scratch);
    char **names = NULL;
    size_t count = 0;
    int64_t bytes = 0;
    (void) state;

    assert_true(file_make_dir(deep, &err));
    assert_true(file_make_dir(deep, &err));
    assert_true(file_replace(file, "12345", 5, 0600, &err));
    assert_true(file_replace(dot, "1", 1, 0600, &err));
    assert_false(file_make_dir(file, &err));
    assert_true(file_list(top, &names, &count, &err));
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "b");
    assert_string_equal(names[1], "z");
    assert_null(names[2]);
    file_free_list(names);
    assert_true(file_tree_size(top, &bytes, &err));
    assert_int_equal(bytes, 6);
    assert_true(file_free_space(top, &bytes, &err));
    assert_true(bytes > 0);
    assert_true(file_remove_tree(top, &err));
    assert_false(file_exists(top));
    assert_true(file_remove_tree(top, &err));
    assert_true(file_tree_size(top, &bytes, &err));
    assert_int_equal(bytes, 0);
    assert_false(file_list(top, &names, &count, &err));
    free(dot);
    free(file);
    free(top);
    free(deep);
}

static void remove_tree_spares_what_links_point_to(void **state)
{
    char *outside = xstrfmt("%s/outside", scratch);
    char *kept = xstrfmt("%s/outside/kept", scratch);
    char *dir = xstrfmt("%s/dir", scratch);
    char *link = xstrfmt("%s/dir/link", scratch);
    (void) state;

    assert_true(file_make_dir(outside, &err));
    assert_true(file_make_dir(dir, &err));
    assert_true(file_replace(kept, "1", 1, 0600, &err));
    assert_int_equal(symlink(outside, link), 0);
    assert_true(file_remove_tree(dir, &err));
    assert_true(file_exists(kept));
    free(link);
    free(dir);
    free(kept);
    free(outside);
}

static void lock_is_exclusive(void **state)
{
    char *path = xstrfmt("%s/lock", scratch);
    int first = -1;
    int second = -1;
    (void) state;

    assert_true(file_lock(path, &first, &err));
    assert_true(fcntl(first, F_GETFD) & FD_CLOEXEC);
    assert_false(file_lock(path, &second, &err));
    assert_int_equal(err.code, ERR_LOCKED);
    close(first);
    assert_true(file_lock(path, &second, &err));
    close(second);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replace_keeps_mode_and_owner),
        cmocka_unit_test(replace_goes_through_a_link),
        cmocka_unit_test(a_failed_replace_leaves_nothing),
        cmocka_unit_test(read_has_a_ceiling),
        cmocka_unit_test(trees_are_made_listed_measured_and_removed),
        cmocka_unit_test(remove_tree_spares_what_links_point_to),
        cmocka_unit_test(lock_is_exclusive),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
