"""pgcutover itself: running it, and what holds for every run of it."""

import glob
import json
import os
import signal
import subprocess
import threading
import time

from . import process
from .shop import ROOT
from .wait import until

DONE, FAILED, USAGE, NO_GO, STOPPED, OPERATOR = range(6)  # the exit statuses
SANITIZER = ("runtime error:", "AddressSanitizer", "LeakSanitizer", "UndefinedBehaviorSanitizer")


def program():
    given = os.environ.get("PGCUTOVER_BIN")
    return given or os.path.join(ROOT, "build", "pgcutover")


class Result:
    def __init__(self, words, status, out, err):
        self.words, self.status, self.out, self.err = words, status, out, err

    @property
    def all(self):
        return self.out + self.err

    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return (f"pgcutover {' '.join(self.words)}\nexit status {self.status}\n"
                f"--- standard output\n{self.out}--- standard error\n{self.err}---")


class Running:
    """pgcutover in the background; its output goes to files."""

    def __init__(self, owner, words, env):
        self.owner, self.words = owner, words
        owner.count += 1
        self.paths = [os.path.join(owner.output, f"{owner.count:03d}-{words[0]}.{end}") for end in ("out", "err")]
        with open(self.paths[0], "wb") as out, open(self.paths[1], "wb") as err:
            self.process = subprocess.Popen(
                [program(), *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=owner.base,
                preexec_fn=process.die_with_parent())  # pylint: disable=subprocess-popen-preexec-fn
        self.pid = self.process.pid

    def read(self, i):
        with open(self.paths[i], encoding="utf-8", errors="replace") as f:
            return f.read()

    @property
    def out(self):
        return self.read(0)

    @property
    def err(self):
        return self.read(1)

    def signal(self, number):
        self.process.send_signal(number)

    def is_alive(self):
        return self.process.poll() is None

    def result(self):
        return Result(self.words, self.process.returncode, self.out, self.err)

    def wait(self, status=DONE, timeout=120):
        """status: the exit status that it must have, None for any, or a negative signal number."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"not done within {timeout} s: {self.result()}") from None
        result = self.result()
        self.owner.inspect(result)
        if status is not None:
            assert result.status == status, f"exit status {status} was expected:\n{result}"
        return result

    def kill(self):
        if self.is_alive():
            self.process.kill()
            self.process.wait()


class Binary:
    """Runs pgcutover with directories of its own, and looks at all that it leaves behind."""

    def __init__(self, base, passwords):
        self.base = base
        self.passwords = passwords
        self.runs = process.make_directory(os.path.join(base, "runs"))
        self.output = process.make_directory(os.path.join(base, "output"))
        self.reports = process.make_directory(os.path.join(base, "sanitizer"))
        self.secrets = set(passwords.of.values())
        self.count = 0
        self.started = []
        self.env = {}

    def environment(self, more=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "ASAN", "UBSAN", "LSAN"))}
        env.update(PGPASSFILE=self.passwords.path, PGCUTOVER_DIR=self.runs, LC_ALL="C.UTF-8",
                   ASAN_OPTIONS=f"log_path={self.reports}/asan:exitcode=99:detect_stack_use_after_return=1",
                   UBSAN_OPTIONS=f"log_path={self.reports}/ubsan:print_stacktrace=1:halt_on_error=1")
        env.update(self.env)
        env.update(more or {})
        return {k: v for k, v in env.items() if v is not None}

    def start(self, *words, env=None):
        running = Running(self, [str(w) for w in words], self.environment(env))
        self.started.append(running)
        return running

    def __call__(self, *words, status=DONE, timeout=120, env=None):
        return self.start(*words, env=env).wait(status, timeout)

    # what must never be

    def inspect(self, result):
        reports = glob.glob(os.path.join(self.reports, "*"))
        if reports:
            with open(reports[0], encoding="utf-8", errors="replace") as f:
                raise AssertionError(f"a sanitizer's report:\n{f.read()[:6000]}\n{result}")
        assert not any(word in result.err for word in SANITIZER), f"a sanitizer's report: {result}"
        for secret in self.secrets:
            assert secret not in result.all, f"a password was printed: {result}"
        assert result.status != 99 and result.status >= -signal.SIGRTMAX, str(result)
        assert result.status not in (-signal.SIGSEGV, -signal.SIGABRT), f"it crashed: {result}"

    def inspect_files(self):
        """No password in any file of any run."""
        needles = [s.encode() for s in self.secrets]
        for folder, _, names in os.walk(self.runs):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.isfile(path):
                    continue
                with open(path, "rb") as f:
                    content = f.read()
                assert not any(n in content for n in needles), f"a password stands in {path}"

    def end(self):
        for running in self.started:
            running.kill()

    # runs

    def run_directory(self, name):
        return os.path.join(self.runs, name)

    def status(self, run=None, **more):
        return self("status", *([run] if run else []), "--json", **more).json()

    def status_file(self, name):
        """What the live run wrote down a moment ago, or {}."""
        try:
            with open(os.path.join(self.run_directory(name), "status.json"), encoding="utf-8") as f:
                return json.load(f)
        except FileNotFoundError:
            return {}

    def journal(self, name):
        try:
            with open(os.path.join(self.run_directory(name), "journal.jsonl"), encoding="utf-8") as f:
                lines = f.read().split("\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[:-1]]  # the last one may be torn

    def phases(self, name, step=None):
        """(step, phase) in the order of the journal, or the phases of one step."""
        pairs = [(r["step"], r["phase"]) for r in self.journal(name) if r.get("type") == "step"]
        return [p for s, p in pairs if s == step] if step else pairs

    def wait_for_phase(self, running, name, step, phase, timeout=60, times=1):
        """Until the journal says so often that a step came so far; the run must still live."""
        def came():
            if self.phases(name, step).count(phase) >= times:
                return True
            assert running.is_alive(), f"it ended before {step} was {phase}:\n{running.result()}"
            return False
        until(came, timeout, lambda: f"{step} {phase}:\n{running.out}{running.err}")

    def wait_for_gate(self, running, name, gate=None, timeout=60):
        def waits():
            assert running.is_alive(), f"it ended before its gate:\n{running.result()}"
            at = self.status_file(name).get("gate")
            return at if at and (gate is None or gate in at) else None
        return until(waits, timeout, lambda: f"the gate:\n{running.out}{running.err}")


class Watcher(threading.Thread):
    """Asks something again and again in the background and keeps the answers with their times."""

    def __init__(self, ask, every=0.02):
        super().__init__(daemon=True)
        self.ask, self.every = ask, every
        self.seen = []
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            self.seen.append((time.monotonic(), self.ask()))
            self.over.wait(self.every)

    def end(self):
        self.over.set()
        self.join(10)
        return self.seen
