/* process, stop, thread */
#include "sys/process.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "sys/file.h"
#include "sys/stop.h"
#include "sys/thread.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct error err;

static void assert_output(struct process_options *opts, const char *command, const char *expected)
{
    struct strbuf out = {0};
    opts->out = &out;
    assert_true(process_shell(command, opts, &err));
    assert_string_equal(strbuf_cstr(&out), expected);
    strbuf_release(&out);
}

static void output_status_and_detail(void **state)
{
    const char *const argv[] = {"sh", "-c", "echo seen; echo why >&2; exit 7", NULL};
    struct strbuf out = {0};
    (void) state;

    assert_false(process_run(&(struct process_options){.argv = argv, .out = &out}, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_string_equal(err.message, "\"sh\" failed with exit status 7");
    assert_string_equal(err.detail, "why");
    assert_string_equal(strbuf_cstr(&out), "seen\n");
    strbuf_release(&out);
}

static void a_program_that_is_not_there(void **state)
{
    const char *const argv[] = {"no-such-program-of-ours", NULL};
    (void) state;
    assert_false(process_run(&(struct process_options){.argv = argv}, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_string_equal(err.message,
                        "could not start \"no-such-program-of-ours\": No such file or directory");
}

static void death_by_signal_is_told(void **state)
{
    (void) state;
    assert_false(process_shell("kill -9 $$", &(struct process_options){0}, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_non_null(strstr(err.message, "signal 9"));
}

static void environment_directory_and_descriptors(void **state)
{
    const char *const env[] = {"PGCUTOVER_UNIT=new", "EXTRA=x", NULL};
    (void) state;

    setenv("PGCUTOVER_UNIT", "old", 1);
    struct process_options opts = {.env = env, .cwd = "/usr"};
    assert_output(&opts, "echo $PGCUTOVER_UNIT $EXTRA; pwd", "new x\n/usr\n");
    int open_here = dup(2); /* inheritable */
    assert_output(&(struct process_options){0},
                  "for n in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo $n; done; true",
                  "0\n1\n2\n");
    assert_output(&(struct process_options){0}, "cat; echo end", "end\n");
    close(open_here);
}

static void signals_are_as_usual_in_the_child(void **state)
{
    (void) state;
    signal(SIGPIPE, SIG_IGN);
    /* the low 28 signals: above them are two of the C library's own */
    assert_output(&(struct process_options){0},
                  "sed -nE 's/^Sig(Blk|Ign):.*(.{7})$/\\2/p' /proc/self/status",
                  "0000000\n0000000\n");
    signal(SIGPIPE, SIG_DFL);
}

static void output_has_a_ceiling(void **state)
{
    struct strbuf out = {0};
    (void) state;

    strbuf_addstr(&out, "before:");
    struct process_options opts = {.out = &out, .out_ceiling = 10};
    assert_true(process_shell("head -c 1000000 /dev/zero | tr '\\0' x", &opts, &err));
    assert_string_equal(strbuf_cstr(&out), "before:xxxxxxxxxx");
    strbuf_reset(&out);
    opts.out_ceiling = 2000000;
    assert_true(process_shell("head -c 1000000 /dev/zero | tr '\\0' x", &opts, &err));
    assert_int_equal(out.len, 1000000);
    strbuf_release(&out);
}

static void the_end_of_stderr_is_kept(void **state)
{
    (void) state;
    assert_false(process_shell("seq 100000 >&2; echo last words >&2; exit 1",
                               &(struct process_options){0}, &err));
    size_t len = strlen(err.detail);
    assert_in_range(len, 1500, 2047);
    assert_string_equal(err.detail + len - 17, "100000\nlast words");
}

static void log_takes_both_streams(void **state)
{
    char path[] = "/tmp/pgcutover-unit.XXXXXX";
    struct strbuf text = {0};
    (void) state;

    close(mkstemp(path));
    struct process_options opts = {.log_path = path};
    assert_true(process_shell("echo one; echo two >&2; echo three", &opts, &err));
    assert_true(process_shell("echo four", &opts, &err));
    assert_true(file_read(path, &text, 1000, &err));
    assert_string_equal(text.data, "one\ntwo\nthree\nfour\n");
    strbuf_release(&text);
    unlink(path);
}

static void the_deadline_ends_the_group(void **state)
{
    struct strbuf out = {0};
    (void) state;

    int64_t begun = clock_us();
    struct process_options opts = {.out = &out, .deadline_us = clock_in_ms(300)};
    assert_false(process_shell("sleep 61 & echo $!; wait", &opts, &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_true(clock_us() - begun < 4000000);
    pid_t grandchild = (pid_t) strtol(strbuf_cstr(&out), NULL, 10);
    assert_true(grandchild > 0);
    /* its parent is gone, so somebody else reaps it: soon */
    int64_t deadline = clock_in_ms(5000);
    char *stat = xstrfmt("/proc/%d/stat", (int) grandchild);
    struct strbuf text = {0};
    bool ended = false;
    while (!ended && !clock_passed(deadline)) {
        strbuf_reset(&text);
        ended = !file_read(stat, &text, 10000, &err) || strstr(text.data, ") Z");
        clock_sleep_ms(10);
    }
    assert_true(ended);
    strbuf_release(&text);
    strbuf_release(&out);
    free(stat);
}

static void endless_output_does_not_outlive_the_deadline(void **state)
{
    struct strbuf out = {0};
    struct process_options opts = {.out = &out, .deadline_us = clock_in_ms(300)};
    (void) state;
    assert_false(process_shell("exec yes", &opts, &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    strbuf_release(&out);
}

static void a_deaf_child_is_killed(void **state)
{
    struct process_options opts = {.deadline_us = clock_in_ms(200)};
    (void) state;

    int64_t begun = clock_us();
    assert_false(process_shell("trap '' TERM; while :; do sleep 1; done", &opts, &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_in_range(clock_us() - begun, 5000000, 9000000);
}

static void a_daemon_left_behind_is_not_waited_for(void **state)
{
    (void) state;
    int64_t begun = clock_us();
    assert_true(process_shell("sleep 6 &", &(struct process_options){0}, &err));
    assert_true(clock_us() - begun < 4000000);
}

static void count_tick(void *ctx)
{
    ++*(int *) ctx;
}

static void request_at_third_tick(void *ctx)
{
    if (++*(int *) ctx == 3)
        stop_request("the test says so");
}

static void ticks_and_stops(void **state)
{
    int ticks = 0;
    struct process_options opts = {.tick = count_tick, .ctx = &ticks};
    (void) state;

    assert_true(process_shell("sleep 1", &opts, &err));
    assert_in_range(ticks, 1, 5);

    ticks = 0;
    opts.tick = request_at_third_tick;
    assert_false(process_shell("sleep 62", &opts, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_string_equal(err.message, "stopped: the test says so");
    assert_false(process_shell("true", &opts, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    opts.ignore_stop = true;
    assert_true(process_shell("true", &opts, &err));
    stop_clear();
    assert_false(stop_requested());
    assert_null(stop_reason());
}

static void the_first_stop_reason_stands(void **state)
{
    (void) state;
    error_clear(&err);
    assert_true(stop_check(&err));
    stop_request("first");
    stop_request("second");
    assert_string_equal(stop_reason(), "first");
    assert_false(stop_check(&err));
    stop_clear();
}

static int catch_two_interrupts(void)
{
    stop_catch_signals();
    raise(SIGPIPE);
    if (stop_requested())
        return 90;
    raise(SIGINT);
    if (!stop_requested())
        return 91;
    stop_clear();
    raise(SIGINT); /* the first one of the undo: no exit yet */
    if (!stop_requested())
        return 92;
    raise(SIGTERM);
    raise(SIGINT);
    return 93;
}

static void a_second_interrupt_exits(void **state)
{
    int status = 0;
    (void) state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(catch_two_interrupts());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 4);
}

static void *say_blocked(void *arg)
{
    sigset_t *blocked = arg;
    pthread_sigmask(SIG_SETMASK, NULL, blocked);
    return blocked;
}

static void threads_leave_signals_to_the_main_one(void **state)
{
    sigset_t blocked;
    sigset_t here;
    pthread_t thread;
    void *result = NULL;
    (void) state;

    assert_true(
        thread_start(&thread, "a name longer than the kernel's", say_blocked, &blocked, &err));
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &blocked);
    assert_true(sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM));
    pthread_sigmask(SIG_SETMASK, NULL, &here);
    assert_false(sigismember(&here, SIGINT));
}

static void conditions_time_out(void **state)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond;
    (void) state;

    thread_cond_init(&cond);
    pthread_mutex_lock(&mutex);
    int64_t deadline = clock_in_ms(50);
    assert_false(thread_cond_wait(&cond, &mutex, deadline));
    assert_true(clock_passed(deadline));
    pthread_mutex_unlock(&mutex);
    pthread_cond_destroy(&cond);
}

static void client_tools_are_found(void **state)
{
    char *path = NULL;
    (void) state;

    setenv("PGCUTOVER_BINDIR", "/bin", 1);
    assert_true(process_find_pg_tool("sh", 15, &path, &err));
    assert_string_equal(path, "/bin/sh");
    free(path);
    unsetenv("PGCUTOVER_BINDIR");
    assert_true(process_find_pg_tool("ls", 15, &path, &err));
    assert_string_equal(path + strlen(path) - 3, "/ls");
    free(path);
    assert_false(process_find_pg_tool("no-such-tool-of-ours", 15, &path, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_non_null(strstr(err.hint, "postgresql-client-15"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_status_and_detail),
        cmocka_unit_test(a_program_that_is_not_there),
        cmocka_unit_test(death_by_signal_is_told),
        cmocka_unit_test(environment_directory_and_descriptors),
        cmocka_unit_test(signals_are_as_usual_in_the_child),
        cmocka_unit_test(output_has_a_ceiling),
        cmocka_unit_test(the_end_of_stderr_is_kept),
        cmocka_unit_test(log_takes_both_streams),
        cmocka_unit_test(the_deadline_ends_the_group),
        cmocka_unit_test(endless_output_does_not_outlive_the_deadline),
        cmocka_unit_test(a_deaf_child_is_killed),
        cmocka_unit_test(a_daemon_left_behind_is_not_waited_for),
        cmocka_unit_test(ticks_and_stops),
        cmocka_unit_test(the_first_stop_reason_stands),
        cmocka_unit_test(a_second_interrupt_exits),
        cmocka_unit_test(threads_leave_signals_to_the_main_one),
        cmocka_unit_test(conditions_time_out),
        cmocka_unit_test(client_tools_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
