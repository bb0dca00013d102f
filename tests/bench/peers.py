"""What somebody would use instead: PostgreSQL's own tools, by hand."""

import os
import subprocess
import threading
import time

from lib import process
from lib.servers import bindir
from lib.wait import until
from lib.world import conninfo_with_password

JOBS = 2


class CommandFailed(Exception):
    pass


def tool(passwords, *words):
    """Runs one of PostgreSQL's programs to its end."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    done = subprocess.run(
        [os.path.join(bindir(), words[0]), *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False, env={**env, "PGPASSFILE": passwords.path},
        preexec_fn=process.die_with_parent())  # pylint: disable=subprocess-popen-preexec-fn
    if done.returncode != 0:
        raise CommandFailed(f"{words[0]} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def timed(act, *args):
    begun = time.monotonic()
    act(*args)
    return time.monotonic() - begun


class Clone:
    """pg_dump to a directory and pg_restore, in parallel."""

    def __init__(self, directory, blue, green, source, target, *options):
        self.archive = os.path.join(directory, "archive")
        self.blue, self.green = blue, green
        self.source, self.target = source, target
        self.options = options
        self.seconds = {}

    def dump(self):
        tool(self.blue.passwords, "pg_dump", "-Fd", f"-j{JOBS}", *self.options, "-f", self.archive,
             "-d", self.blue.conninfo(self.source))

    def restore(self):
        self.green.create_database(self.target)
        tool(self.green.passwords, "pg_restore", f"-j{JOBS}", "--exit-on-error",
             "-d", self.green.conninfo(self.target), self.archive)

    def analyze(self):
        tool(self.green.passwords, "vacuumdb", "-q", "--analyze-only", f"-j{JOBS}",
             "-d", self.green.conninfo(self.target))

    def make(self):
        try:
            for part in (self.dump, self.restore, self.analyze):
                self.seconds[part.__name__] = timed(part)
        finally:
            process.remove(self.archive)
        return self


class Subscription:
    """A native one: slot and publication are made now, the changes come when it is told to catch up."""

    NAME = "peer"

    def __init__(self, blue, green, source, target):
        self.blue, self.green = blue, green
        self.source, self.target = source, target
        self.made = False

    def publish(self, tables):
        """Before a run that refuses DDL."""
        self.blue.execute(f"CREATE PUBLICATION {self.NAME} FOR TABLE {', '.join(tables)}", dbname=self.source)

    def make_slot(self):
        self.blue.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.NAME,
                          dbname=self.source)

    def catch_up(self, lsn, timeout):
        """Seconds from nothing until a commit past lsn is there."""
        with self.green.connect(self.target) as green:
            begun = time.monotonic()
            green.execute(
                f"CREATE SUBSCRIPTION {self.NAME} CONNECTION "
                f"'{conninfo_with_password(self.blue, dbname=self.source)}' PUBLICATION {self.NAME} "
                f"WITH (copy_data = false, create_slot = false, slot_name = '{self.NAME}')")
            self.made = True
            origin = green.execute("SELECT 'pg_' || oid FROM pg_subscription WHERE subname = %s",
                                   (self.NAME,)).fetchone()[0]
            until(lambda: green.execute(
                "SELECT count(*) FROM pg_replication_origin_status WHERE external_id = %s AND remote_lsn > %s",
                (origin, lsn)).fetchone()[0], timeout, "the subscription catches up", every=0.01)
            return time.monotonic() - begun

    def drop(self):
        if self.made:
            for statement in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                              "DROP SUBSCRIPTION {}"):
                self.green.execute(statement.format(self.NAME), dbname=self.target)
            self.made = False


def fingerprint(cluster, dbname, tables):
    """{table: (rows, a sum over their texts' hashes)}."""
    found = {}
    with cluster.connect(dbname) as c:
        for t in tables:
            found[t] = c.execute(f"SELECT count(*), coalesce(sum(hashtext(t::text)), 0)::text FROM {t} t").fetchone()
    return found


def fingerprints(sides, tables):
    """Of several (cluster, database) at once; returns them and the seconds that it took."""
    found = [None] * len(sides)
    failures = []

    def look(i):
        try:
            found[i] = fingerprint(*sides[i], tables)
        except Exception as e:  # pylint: disable=broad-exception-caught
            failures.append(e)

    begun = time.monotonic()
    threads = [threading.Thread(target=look, args=(i,), daemon=True) for i in range(len(sides))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    return found, time.monotonic() - begun
