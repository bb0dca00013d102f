/* event and fault */
#include "base/event.h"
#include "base/fault.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct seen {
    int count;
    int64_t done;
    enum event_kind kind;
    char text[64];
};

static void remember(void *ctx, const struct event *ev)
{
    struct seen *seen = ctx;
    seen->count++;
    seen->done += ev->done;
    seen->kind = ev->kind;
    if (ev->text) {
        strncpy(seen->text, ev->text, sizeof seen->text - 1);
        seen->text[sizeof seen->text - 1] = '\0';
    }
}

static void every_consumer_is_told(void **state)
{
    struct seen a = {0};
    struct seen b = {0};
    (void) state;

    event_subscribe(remember, &a);
    event_subscribe(remember, &b);
    event_warn("lag is %d", 7);
    assert_string_equal(a.text, "lag is 7");
    assert_int_equal(b.kind, EVENT_WARN);
    event_unsubscribe(remember, &a);
    event_info("more");
    assert_int_equal(a.count, 1);
    assert_int_equal(b.count, 2);
    event_unsubscribe(remember, &b);
    event_info("nobody listens");
    assert_int_equal(b.count, 2);
}

static void *produce(void *arg)
{
    (void) arg;
    for (int i = 0; i < 1000; i++)
        event_progress("t", 1, 0, "rows");
    return NULL;
}

static void consumers_are_called_one_at_a_time(void **state)
{
    struct seen seen = {0};
    pthread_t threads[4];
    (void) state;

    event_subscribe(remember, &seen);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, produce, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    event_unsubscribe(remember, &seen);
    assert_int_equal(seen.count, 4000);
    assert_int_equal(seen.done, 4000);
}

/* The environment is read once in a process, so each case has one of its own: its exit status or
 * signal. */
static int in_child(const char *faults, int (*act)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setenv("PGCUTOVER_FAULT", faults, 1);
        _exit(act());
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    if (!WIFSTOPPED(status))
        return status;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return status;
}

/* A bit for each of five passings that failed. */
static int pass_five(void)
{
    int failed = 0;
    for (int i = 0; i < 5; i++) {
        struct error err = {0};
        if (!FAULT("spool.write", &err))
            failed |= 1 << i;
        if (err.code != ERR_NONE && strcmp(err.message, "fault spool.write") != 0)
            return 99;
    }
    return failed;
}

static void faults_strike_where_named(void **state)
{
    (void) state;
    assert_int_equal(WEXITSTATUS(in_child("", pass_five)), 0);
    assert_int_equal(WEXITSTATUS(in_child("other=die", pass_five)), 0);
    assert_int_equal(WEXITSTATUS(in_child("spool.write=error", pass_five)), 31);
    assert_int_equal(WEXITSTATUS(in_child("x=die,spool.write=error@3", pass_five)), 4);

    int status = in_child("spool.write=die@2", pass_five);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = in_child("spool.write=stall", pass_five);
    assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_consumer_is_told),
        cmocka_unit_test(consumers_are_called_one_at_a_time),
        cmocka_unit_test(faults_strike_where_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
