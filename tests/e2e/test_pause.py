"""The pause: bounded, undone when it overruns, given back when the run dies or stalls, and fenced without a hole."""

import os
import signal
import threading
import time

import psycopg
import pytest

from lib.binary import DONE, NO_GO, STOPPED, Watcher
from lib.ledger import NEW, OLD
from lib.wait import until


@pytest.fixture
def ready(world, cutover, clients):  # pylint: disable=unused-argument
    """A run that is stopped right before its gate; returns a function that changes its pause and goes on."""
    def prepare(**changes):
        book = world.playbook(**changes.pop("cutover", {}))
        for section, keys in changes.items():
            book[section].update(keys)
        cutover("run", world.write(book), "--yes", "--until", "deploy", status=STOPPED)
    return prepare


def switch_is_whole(world, cutover, clients):
    cutover("resume", "shop", "--yes")
    clients.wait_for(40, version=NEW)
    ledger = world.check_ledger("green")
    assert not ledger.errors() and not ledger.ambiguous
    return ledger


def blue_serves_on(world, clients):
    assert world.serving() == "blue"
    clients.wait_for(40, version=OLD)
    ledger = world.check_ledger("blue")
    assert not ledger.errors() and not ledger.ambiguous
    return ledger


def test_overrun_is_undone(world, cutover, clients, ready):
    """A transaction left open through the pooler: three tries, no client fails, blue serves."""
    ready(thresholds={"write_pause": "700ms"})
    before = world.blue.dump_schema()
    with world.pooler.connect("shop") as idle:
        idle.execute("BEGIN; SELECT 1")
        result = cutover("resume", "shop", "--yes", status=NO_GO)
        assert "blue serves" in result.all
        idle.execute("COMMIT")
    assert cutover.phases("shop", "hold").count("undone") == 3
    ledger = blue_serves_on(world, clients)
    assert ledger.longest_gap()[0] < 2.5, "a pause was longer than its budget"
    assert world.blue.dump_schema() == before
    switch_is_whole(world, cutover, clients)


@pytest.fixture
def at_gate(world, cutover, clients):  # pylint: disable=unused-argument
    """A run that waits at its gate, with a short pause."""
    book = world.playbook()
    book["thresholds"]["write_pause"] = "800ms"
    run = cutover.start("run", world.write(book))
    cutover.wait_for_gate(run, "shop", "hold")
    return run


def undone_and_back_at_the_gate(cutover, run, *words):
    """Tells the run to go; the pause fails and it says these words of it."""
    cutover("control", "shop", "go")
    cutover.wait_for_phase(run, "shop", "hold", "undone")
    until(lambda: all(word in run.out + run.err for word in words) or not run.is_alive(), 10,
          lambda: f"it names {words}: {run.out}{run.err}")
    cutover.wait_for_gate(run, "shop", "hold")


def test_overrun_names_who_held_it(world, cutover, clients, at_gate):
    """A transaction beside the pooler holds a lock: the fence can't have it, and says whose it is."""
    with world.blue.connect(user="app", application_name="night-batch") as batch:
        batch.execute("BEGIN; UPDATE customers SET fax = '1' WHERE id = 1")
        undone_and_back_at_the_gate(cutover, at_gate, "customers", "night-batch", str(batch.info.backend_pid))
        clients.wait_for(10, version=OLD)
        batch.execute("COMMIT")
    blue_serves_on(world, clients)
    cutover("control", "shop", "go")
    at_gate.wait(DONE)
    clients.wait_for(20, version=NEW)
    assert not world.check_ledger("green").errors()


def test_second_try_succeeds(world, cutover, clients, ready):
    ready(thresholds={"write_pause": "1s"})
    with world.pooler.connect("shop") as idle:
        idle.execute("BEGIN; SELECT 1")
        run = cutover.start("resume", "shop", "--yes")
        cutover.wait_for_phase(run, "shop", "hold", "undone")
        idle.execute("COMMIT")
    run.wait(DONE, timeout=60)
    clients.wait_for(40, version=NEW)
    assert not world.check_ledger("green").errors()


@pytest.mark.parametrize("point", ["pause.held", "pause.fenced", "pause.confirmed", "pause.flipped",
                                   "open.before-commit"])
def test_stalled_run_must_not_open(world, cutover, clients, ready, point):
    """SIGSTOP in the pause until the guard gave up, then SIGCONT: another has decided meanwhile."""
    ready(thresholds={"write_pause": "600ms"}, cutover={"switch_attempts": "1"})
    run = cutover.start("resume", "shop", "--yes", env={"PGCUTOVER_FAULT": f"{point}=stall"})
    until(lambda: is_stopped(run.pid), 30, lambda: f"it stalls at {point}: {run.out}{run.err}")
    stalled = time.monotonic()
    clients.wait_for(10, timeout=10)  # the guard has given blue back
    assert time.monotonic() - stalled < 5
    run.signal(signal.SIGCONT)
    result = run.wait(NO_GO)
    assert "serving: blue" in result.out
    blue_serves_on(world, clients)
    switch_is_whole(world, cutover, clients)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return f.read().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.parametrize("point", ["pause.held", "pause.fenced", "pause.flipped", "open.before-commit"])
def test_dead_run_gives_the_traffic_back(world, cutover, clients, ready, point):
    ready(thresholds={"write_pause": "10s"})
    cutover("resume", "shop", "--yes", env={"PGCUTOVER_FAULT": f"{point}=die"}, status=-signal.SIGKILL)
    died = time.monotonic()
    until(lambda: not world.pooler.is_paused("shop"), 10, "the guard releases the traffic")
    clients.wait_for(4)
    assert time.monotonic() - died < 3, "clients waited long for a dead run"
    blue_serves_on(world, clients)
    switch_is_whole(world, cutover, clients)


def test_dead_run_after_the_decision(world, cutover, clients, ready):
    """The guard must leave a decided switch alone: traffic waits for resume."""
    ready()
    cutover("resume", "shop", "--yes", env={"PGCUTOVER_FAULT": "open.committed=die"}, status=-signal.SIGKILL)
    log = os.path.join(cutover.run_directory("shop"), "logs/guard.log")
    until(lambda: "decided" in read(log), 20, "the guard sees that it was decided")
    status = cutover.status("shop")
    assert "resume" in status["next"]
    assert clients.acknowledged(NEW) == 0
    switch_is_whole(world, cutover, clients)


def read(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def test_prepared_transaction_in_the_way(world, cutover, clients, at_gate):
    """Prepared after preflight: it holds no table's lock, and could commit at any time."""
    world.blue.execute("BEGIN; SELECT pg_advisory_xact_lock(1), txid_current(); PREPARE TRANSACTION 'harmless'")
    undone_and_back_at_the_gate(cutover, at_gate, "harmless")
    blue_serves_on(world, clients)
    world.blue.execute("ROLLBACK PREPARED 'harmless'")
    cutover("control", "shop", "go")
    at_gate.wait(DONE)
    clients.wait_for(20, version=NEW)
    assert not world.check_ledger("green").errors()


class DirectWriter(threading.Thread):
    """Writes to blue beside the pooler, and remembers what was acknowledged."""

    def __init__(self, cluster, user, before="", pause=0.0):
        super().__init__(daemon=True)
        self.cluster, self.user, self.before, self.pause = cluster, user, before, pause
        self.acknowledged, self.refused = [], 0
        self.over = threading.Event()
        self.start()

    def run(self):
        number = 0
        while not self.over.is_set():
            try:
                with self.cluster.connect(user=self.user) as c:
                    while not self.over.is_set():
                        number += 1
                        c.execute(f"BEGIN; {self.before}")
                        c.execute(f"INSERT INTO orders (customer_id, invoice_no, token, total) VALUES (1, "
                                  f"nextval('invoice_numbers'), 'direct-{id(self)}-{number}', 1)")
                        if self.pause:
                            c.execute(f"SELECT pg_sleep({self.pause})")
                        c.execute("COMMIT")
                        self.acknowledged.append(f"direct-{id(self)}-{number}")
            except psycopg.Error:
                self.refused += 1
                self.over.wait(0.02)

    def end(self):
        self.over.set()
        self.join(20)
        return set(self.acknowledged)


def test_direct_writers(world, cutover, pooler):  # pylint: disable=unused-argument
    """Sessions that no pooler holds, one that says READ WRITE, a superuser, one with long transactions."""
    book = world.playbook(compatible="both")
    cutover("run", world.write(book), "--yes", "--until", "deploy", status=STOPPED)
    writers = [DirectWriter(world.blue, "app"), DirectWriter(world.blue, "app", "SET TRANSACTION READ WRITE"),
               DirectWriter(world.blue, "postgres", "SET TRANSACTION READ WRITE"),
               DirectWriter(world.blue, "app", pause=0.3)]
    until(lambda: all(len(w.acknowledged) > 3 for w in writers), 30, "all of them write")
    cutover("resume", "shop", "--yes")
    opened = set(t for (t,) in world.blue.execute("SELECT token FROM orders"))
    until(lambda: all(w.refused > 1 for w in writers), 20, "all of them are refused")
    acknowledged = set().union(*(w.end() for w in writers))
    tokens = {side.name: [t for (t,) in side.execute(f"SELECT token FROM {table} WHERE token LIKE 'direct-%%'")]
              for side, table in ((world.blue, "orders"), (world.green, "purchase_orders"))}
    assert acknowledged <= set(tokens["green"]), "a write that blue acknowledged is not on green"
    assert sorted(tokens["blue"]) == sorted(tokens["green"]), "blue took a write after the proof"
    assert set(tokens["blue"]) <= opened


def test_writer_in_replica_mode(world, cutover, clients, ready):  # pylint: disable=unused-argument
    """A superuser whose session skips triggers: what it wrote before the decision is on green, then it is ended."""
    ready()
    written = []

    def write():
        with world.blue.connect(options="-c session_replication_role=replica") as c:
            while True:
                try:
                    c.execute("INSERT INTO log.audit (actor, action, token) VALUES ('r', 'r', %s)",
                              [f"replica-{len(written):06d}"])
                    written.append(f"replica-{len(written):06d}")
                except psycopg.Error:
                    return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    cutover("resume", "shop", "--yes")
    thread.join(20)
    assert not thread.is_alive(), "it was left to write on blue"
    on_green = [t for (t,) in world.green.execute("SELECT token FROM log.audit WHERE actor = 'r' ORDER BY token")]
    assert on_green == written[:len(on_green)] and len(on_green) > 3


@pytest.mark.parametrize("turn", [1, -1], ids=["forward", "backward"])
def test_lock_order_against_ours(world, cutover, clients, ready, turn):
    """Clients that lock tables in an order of their own: nobody but us may be the victim of a deadlock."""
    ready()
    deadlocks, over = [], threading.Event()
    tables = ["products", "orders", "order_lines", "log.events", "log.audit", "customers"]

    def work():
        with world.blue.connect(user="app") as c:
            while not over.is_set():
                try:
                    c.execute("BEGIN")
                    for table in tables[::turn]:
                        c.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE; SELECT pg_sleep(0.01)")
                    c.execute("COMMIT")
                except psycopg.errors.DeadlockDetected as e:
                    deadlocks.append(str(e))
                    c.execute("ROLLBACK")
                except psycopg.Error:
                    return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    cutover("resume", "shop", "--yes")
    over.set()
    for thread in threads:
        thread.join(20)
    assert not deadlocks, deadlocks
    clients.wait_for(40, version=NEW)
    assert not world.check_ledger("green").errors()


def test_never_two_sides_take_writes(world, cutover, clients, ready):
    """Watched all the time: blue and green are never open for writes together."""
    ready()

    def is_open(cluster, table):
        try:
            with cluster.connect(user="app", connect_timeout=3, options="-c lock_timeout=10ms") as c:
                c.execute("BEGIN")
                c.execute(f"UPDATE {table} SET note = note WHERE false")
                c.execute("ROLLBACK")
            return True
        except psycopg.errors.LockNotAvailable:
            return None
        except psycopg.Error:
            return False

    # green is asked first: blue, closed before green opens, can't be open again afterwards
    watcher = Watcher(lambda: (is_open(world.green, "purchase_orders"), is_open(world.blue, "orders")))
    switch_is_whole(world, cutover, clients)
    seen = [answer for _, answer in watcher.end()]
    assert (False, True) in seen and (True, False) in seen
    assert (True, True) not in seen


def test_pooler_restarts_while_it_holds(world, cutover, clients, ready):
    """PgBouncer forgets its PAUSE: the fence keeps blue closed, no acknowledged write is lost."""
    ready()
    run = cutover.start("resume", "shop", "--yes", env={"PGCUTOVER_FAULT": "pause.fenced=stall"})
    until(lambda: is_stopped(run.pid), 30, "it stalls in the pause")
    world.pooler.stop()
    world.pooler.launch()
    run.signal(signal.SIGCONT)
    run.wait(None, timeout=60)
    if cutover.status("shop")["state"] == "stopped" and "green" not in cutover.status("shop")["serving"]:
        cutover("resume", "shop", "--yes")
    clients.wait_for(40, version=NEW, timeout=60)
    world.check_ledger("green")
