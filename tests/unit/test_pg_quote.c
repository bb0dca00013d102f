/* Names, literals, arrays, connection strings: what needs no server. */
#include "pg/conn.h"

#include "base/secret.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

static void names_are_quoted(void **state)
{
    struct strbuf sb = {0};

    (void) state;
    pg_add_ident(&sb, "order");
    pg_add_ident(&sb, "a\"b");
    assert_string_equal(strbuf_cstr(&sb), "\"order\"\"a\"\"b\"");
    strbuf_release(&sb);
}

static void literals_are_quoted(void **state)
{
    struct strbuf sb = {0};

    (void) state;
    pg_add_literal(&sb, "it's");
    pg_add_literal(&sb, "back\\slash's");
    assert_string_equal(strbuf_cstr(&sb), "'it''s' E'back\\\\slash''s'");
    strbuf_release(&sb);
}

static void arrays_are_in_binary(void **state)
{
    struct strbuf sb = {0};
    const char *values[] = {"ab", NULL, ""};
    const int lens[] = {2, 0, 0};
    static const unsigned char want[] = {0,   0,   0,    1,    0,    0,    0, 1, 0, 0, 0, 25,
                                         0,   0,   0,    3,    0,    0,    0, 1, 0, 0, 0, 2,
                                         'a', 'b', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0};

    (void) state;
    strbuf_addstr(&sb, "old");
    pg_text_array(&sb, 3, values, lens);
    assert_int_equal(sb.len, sizeof want);
    assert_memory_equal(sb.data, want, sizeof want);
    pg_text_array(&sb, 0, NULL, NULL);
    assert_int_equal(sb.len, 12);
    strbuf_release(&sb);
}

static const char *get(char **env, const char *name)
{
    for (size_t len = strlen(name); *env; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return *env + len + 1;
    return NULL;
}

static void child_environment(void **state)
{
    struct error err = {0};
    char **env = NULL;

    (void) state;
    assert_true(pg_child_env("host=h port=99 user=u password='p w' dbname=d options='-c a=b' "
                             "replication=database sslmode=require target_session_attrs=read-write",
                             "other", &env, &err));
    assert_string_equal(get(env, "PGHOST"), "h");
    assert_string_equal(get(env, "PGPORT"), "99");
    assert_string_equal(get(env, "PGPASSWORD"), "p w");
    assert_string_equal(get(env, "PGDATABASE"), "other");
    assert_string_equal(get(env, "PGOPTIONS"), "-c a=b");
    assert_string_equal(get(env, "PGSSLMODE"), "require");
    assert_string_equal(get(env, "PGTARGETSESSIONATTRS"), "read-write");
    pg_free_env(env);
}

static void service_files_are_resolved(void **state)
{
    struct error err = {0};
    char path[] = "/tmp/pgcutover-service-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    char **env = NULL;
    char *name = NULL, *text;

    (void) state;
    fputs("[shop]\nhost=far\nport=7\ndbname=shopdb\npassword=hush\ntarget_session_attrs=any\n", f);
    fclose(f);
    setenv("PGSERVICEFILE", path, 1);
    assert_true(pg_conninfo_dbname("service=shop", &name, &err));
    assert_string_equal(name, "shopdb");
    free(name);
    text = pg_conninfo_describe("service=shop host=near");
    assert_string_equal(text, "near:7/shopdb");
    free(text);
    assert_true(pg_child_env("service=shop host=near", "clone", &env, &err));
    assert_string_equal(get(env, "PGHOST"), "near");
    assert_string_equal(get(env, "PGDATABASE"), "clone");
    assert_string_equal(get(env, "PGPASSWORD"), "hush");
    assert_null(get(env, "PGSERVICE")); /* would win over the variables */
    pg_free_env(env);
    unsetenv("PGSERVICEFILE");
    unlink(path);
}

static void bad_conninfo_shows_no_password(void **state)
{
    struct error err = {0};
    char *name = NULL;
    struct pg *pg = NULL;

    (void) state;
    assert_false(pg_conninfo_dbname("host=h password=my sesame", &name, &err));
    assert_int_equal(err.code, ERR_CONNECT);
    assert_null(strstr(err.message, "sesame"));
    assert_non_null(strstr(err.hint, "quotes"));
    assert_false(pg_open(&pg, "host=h password=my sesame", NULL, PG_PLAIN, "r", "w", NULL, &err));
    assert_null(strstr(err.message, "sesame"));
    assert_null(pg);
}

static void refused_says_what_to_look_at(void **state)
{
    struct error err = {0};
    struct pg *pg = NULL;

    (void) state;
    assert_false(pg_open(&pg, "host=127.0.0.1 port=1 dbname=x password=sesame", NULL, PG_PLAIN, "r",
                         "w", NULL, &err));
    assert_int_equal(err.code, ERR_CONNECT);
    assert_non_null(strstr(err.message, "127.0.0.1:1/x"));
    assert_null(strstr(err.message, "sesame"));
    assert_non_null(strstr(err.hint, "listens"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_quoted),
        cmocka_unit_test(literals_are_quoted),
        cmocka_unit_test(arrays_are_in_binary),
        cmocka_unit_test(child_environment),
        cmocka_unit_test(service_files_are_resolved),
        cmocka_unit_test(bad_conninfo_shows_no_password),
        cmocka_unit_test(refused_says_what_to_look_at),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
