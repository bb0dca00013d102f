"""The shop database, and its application as a process."""

import json
import os
import signal
import subprocess
import sys

from . import process
from .ledger import NEW, OLD, Ledger
from .wait import TimedOut, until

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "../../.."))
MIGRATIONS = os.path.join(ROOT, "tests/demo/migrations")
APP = os.path.join(ROOT, "tests/demo/app")

# 300,000 rows, and a shop of the same shape for tests
LARGE = {"customers": 30_000, "products": 5_000, "orders": 60_000, "lines": 2, "audit": 45_000, "events": 40_000}
SMALL = {"customers": 60, "products": 20, "orders": 150, "lines": 2, "audit": 800, "events": 120}


def rows(size):
    return sum(size.values()) - size["lines"] + size["orders"] * size["lines"]


def load(cluster, size, dbname="shop"):
    """Makes the database, owned by app, and fills it."""
    cluster.create_database(dbname)
    words = [w for name, n in size.items() for w in ("-v", f"{name}={n}")]
    done = subprocess.run(["psql", "-X", "-q", "-t", "-d", cluster.conninfo(dbname, user="app"), *words,
                           "-f", os.path.join(HERE, "shop.sql")], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False, env={**os.environ, "PGPASSFILE": cluster.passwords.path})
    if done.returncode != 0 or done.stderr:
        raise RuntimeError(f"loading the shop: {done.stderr}")


class Clients:
    """The process of lib/clients.py, from outside."""

    def __init__(self, directory, passwords, old, new, size, workers=8, rate=300, seed=1):
        self.directory = directory
        self.passwords = passwords
        self.size = size
        self.words = ["--directory", directory, "--old", old, "--new", new, "--workers", str(workers),
                      "--rate", str(rate), "--seed", str(seed), "--customers", str(size["customers"]),
                      "--products", str(size["products"])]
        self.process = None

    def start(self):
        os.makedirs(self.directory, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "clients.py"), *self.words], stdin=subprocess.DEVNULL,
            env={**os.environ, "PGPASSFILE": self.passwords.path},
            preexec_fn=process.die_with_parent())  # pylint: disable=subprocess-popen-preexec-fn
        until(lambda: self.acknowledged() > 0, 30, lambda: f"the clients write: {self.state()}")
        return self

    def state(self):
        try:
            with open(os.path.join(self.directory, "state.json"), encoding="ascii") as f:
                return json.load(f)
        except FileNotFoundError:
            return {"states": {}, "acknowledged": {}, "errors": {}, "obeyed": {}, "resting": False,
                    "serving": OLD, "new": "absent"}

    def acknowledged(self, version=None):
        by_version = self.state()["acknowledged"]
        return by_version.get(version, 0) if version else sum(by_version.values())

    def errors(self):
        return self.state()["errors"]

    def say(self, command):
        """Returns when the clients have heard it."""
        if self.process.poll() is not None:
            raise RuntimeError("the clients are gone")
        before = self.state()["obeyed"].get(command, 0)
        control = os.open(os.path.join(self.directory, "control"), os.O_RDWR)
        try:
            os.write(control, command.encode() + b"\n")
            until(lambda: self.state()["obeyed"].get(command, 0) > before, 20, f"the clients obey {command}")
        finally:
            os.close(control)

    def rest(self):
        """Returns the ledger when no write is under way; the clients go on at work()."""
        self.say("rest")
        until(lambda: self.state()["resting"], 60, lambda: f"the clients rest: {self.state()}")
        return self.ledger()

    def work(self):
        self.say("work")

    def wait_for(self, more, timeout=30, version=None):
        """Returns when so many more writes were acknowledged."""
        goal = self.acknowledged(version) + more
        until(lambda: self.acknowledged(version) >= goal, timeout,
              lambda: f"{more} more writes: {self.state()}")

    def ledger(self):
        return Ledger.read(self.directory)

    def stop(self):
        if self.process is not None:
            try:
                code = process.stop(self.process, (signal.SIGTERM, 120))
            finally:
                self.process = None
            if code != 0:
                raise TimedOut(f"the clients ended with status {code}")
        return self.ledger()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


__all__ = ["LARGE", "SMALL", "MIGRATIONS", "APP", "ROOT", "NEW", "OLD", "Clients", "load", "rows"]
