#include "base/secret.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void assert_masked(const char *conninfo, const char *expected)
{
    char *masked = secret_mask_conninfo(conninfo);
    assert_string_equal(masked, expected);
    free(masked);
}

static void secret_is_revealed_on_purpose_only(void **state)
{
    struct secret *s = secret_new("hunter2");
    (void) state;
    assert_string_equal(secret_reveal(s), "hunter2");
    secret_free(s);
    secret_free(NULL);
}

static void keywords_are_masked(void **state)
{
    (void) state;
    assert_masked("", "");
    assert_masked("service=shop", "service=shop");
    assert_masked("host=h password=pw dbname=d", "host=h password=*** dbname=d");
    assert_masked("password = 'a b\\'c' host=h", "password = *** host=h");
    assert_masked("password=a\\ b host=h", "password=*** host=h");
    assert_masked("host='password=x' user=u", "host='password=x' user=u");
    assert_masked("sslpassword=x passfile=/p", "sslpassword=*** passfile=/p");
    assert_masked("password='never closed", "password=***");
    assert_masked("password=", "password=***");
}

static void uris_are_masked(void **state)
{
    (void) state;
    assert_masked("postgresql://h/db", "postgresql://h/db");
    assert_masked("postgresql://u@h:5432/db", "postgresql://u@h:5432/db");
    assert_masked("postgres://u:pw@h:5432/db", "postgres://u:***@h:5432/db");
    assert_masked("postgresql://u:p@w@h/db", "postgresql://u:***@h/db");
    assert_masked("postgresql://u:p/w@h/db", "postgresql://u:***@h/db");
    assert_masked("postgresql://u:p?w@h/db", "postgresql://u:***@h/db");
    assert_masked("postgresql://h/db?user=u&password=pw&port=1",
                  "postgresql://h/db?user=u&password=***&port=1");
    assert_masked("postgresql://h/db?pass%77ord=pw", "postgresql://h/db?pass%77ord=***");
    assert_masked("postgresql://u:pw@h/db?sslpassword=x",
                  "postgresql://u:***@h/db?sslpassword=***");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(secret_is_revealed_on_purpose_only),
        cmocka_unit_test(keywords_are_masked),
        cmocka_unit_test(uris_are_masked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
