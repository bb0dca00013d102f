"""What goes wrong around a run: migrations, disks, poolers, servers."""

import os
import signal
import subprocess

import pytest

from lib import process
from lib.binary import DONE, FAILED, NO_GO, STOPPED
from lib.ledger import NEW
from lib.servers import Cluster
from lib.shop import SMALL, load
from lib.wait import until
from lib.world import World


def blue_serves_on(world, clients):
    assert world.serving() == "blue"
    clients.wait_for(20)
    ledger = world.check_ledger("blue")
    assert not ledger.errors() and not ledger.ambiguous


@pytest.mark.parametrize("transaction", ["each", "all", "none"])
def test_migration_that_fails_in_the_middle(world, cutover, clients, transaction):
    book = world.playbook(compatible="both")
    del book["map public.orders"], book["map public.customers"]
    directory = world.write_migrations(
        V1="ALTER TABLE customers ADD COLUMN loyalty text;\n",
        V2="-- two statements\nALTER TABLE customers ADD COLUMN points int;\n\nALTER TABLE nowhere ADD COLUMN x int;\n")
    book["migrations"].update(directory=directory, transaction=transaction)
    result = cutover("run", world.write(book), "--yes", status=FAILED)
    for word in ("V2__test.sql", "4", "42P01", "nowhere"):
        assert word in result.err
    assert "serving: blue" in result.out
    blue_serves_on(world, clients)

    world.write_migrations(V2="-- two statements\nALTER TABLE customers ADD COLUMN points int;\n\n"
                              "ALTER TABLE products ADD COLUMN x int;\n")
    cutover("resume", "shop", "--yes")
    assert world.green.value("SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' AND "
                             "column_name IN ('loyalty', 'points', 'x')") == 3
    clients.wait_for(20)
    world.check_ledger("green", migrated=False)


def test_migration_that_violates_data(world, cutover, clients):
    book = world.playbook(compatible="both")
    del book["map public.orders"], book["map public.customers"]
    book["migrations"]["directory"] = world.write_migrations(
        V1="ALTER TABLE customers ADD CONSTRAINT few CHECK (id < 10);\n")
    result = cutover("run", world.write(book), "--yes", status=FAILED)
    for word in ("V1__test.sql", "23514", "few"):
        assert word in result.err
    blue_serves_on(world, clients)
    before = world.blue.fingerprint()
    cutover("abort", "--yes")
    assert world.blue.fingerprint() != before
    assert not world.green.has_database("shop")


def test_late_write_that_the_new_schema_refuses(world, cutover, clients):
    """Blue takes a row that green's new constraint forbids: replay stops and names it, and goes on after the mend."""
    book = world.playbook(compatible="both")
    del book["map public.orders"], book["map public.customers"]
    book["migrations"]["directory"] = world.write_migrations(
        V1="ALTER TABLE products ADD CONSTRAINT cheap CHECK (price < 1000);\n")
    run = cutover.start("run", world.write(book))
    cutover.wait_for_gate(run, "shop")
    world.blue.execute("UPDATE products SET price = 5000 WHERE id = 7")
    result = run.wait(FAILED)
    assert "cheap" in result.err and "products" in result.err
    blue_serves_on(world, clients)
    cutover("resume", "shop", "--yes", status=FAILED)  # it does not go away by itself
    world.green.execute("ALTER TABLE products DROP CONSTRAINT cheap")
    cutover("resume", "shop", "--yes")
    assert world.green.value("SELECT price FROM products WHERE id = 7") == 5000
    clients.wait_for(20)
    world.check_ledger("green", migrated=False)


def test_orphan_under_a_new_foreign_key(world, cutover, clients):
    """session_replication_role lets it pass: it must be found before green opens."""
    book = world.playbook(compatible="both")
    del book["map public.orders"], book["map public.customers"]
    book["migrations"]["directory"] = world.write_migrations(
        V1="ALTER TABLE order_lines ADD CONSTRAINT known FOREIGN KEY (product_id) REFERENCES products;\n")
    run = cutover.start("run", world.write(book))
    cutover.wait_for_gate(run, "shop")
    world.blue.execute("INSERT INTO order_lines (order_id, line_no, product_id, quantity, price) "
                       "VALUES (1, 77, 999999, 1, 1)")
    cutover("control", "shop", "go")
    result = run.wait(None)
    assert result.status == NO_GO
    for word in ('"known"', "order_lines", "product_id='999999'"):
        assert word in result.err
    assert "constraints that replay doesn't enforce: 1, checked in full" in result.all
    assert "traffic was held" not in result.all  # it is found before anybody waits
    blue_serves_on(world, clients)
    world.blue.execute("DELETE FROM order_lines WHERE product_id = 999999")
    cutover("resume", "shop", "--yes")
    clients.wait_for(20)
    world.check_ledger("green", migrated=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_disk_full_under_the_spool(world, cutover, clients):
    """Blue serves on; with room made, the run resumes and nothing is missing."""
    runs = cutover.runs
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", runs], check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        run = cutover.start("run", world.write(world.playbook()), env=STALL)
        fill(world, run, 100_000)
        result = run.wait(FAILED)
        assert "No space left" in result.err
        blue_serves_on_without_fillers(world, clients)
        subprocess.run(["mount", "-o", "remount,size=400m", runs], check=True)
        cutover("resume", "shop", "--yes")
        clients.wait_for(20, version=NEW)
        assert world.green.value("SELECT count(*) FROM log.audit WHERE actor = 'filler'") == 100_000
        assert not world.check_ledger("green").errors()
        cutover.inspect_files()
    finally:
        subprocess.run(["umount", "-l", runs], check=False)


STALL = {"PGCUTOVER_FAULT": "migrate.statement=stall@1"}


def fill(world, run, rows):
    """While the run is stalled in its migrations, blue takes this much."""
    until(lambda: is_stopped(run.pid), 60, lambda: f"it stalls while migrating: {run.out}{run.err}")
    world.blue.execute("INSERT INTO log.audit (actor, action, detail) SELECT 'filler', 'fill', to_jsonb(repeat("
                       f"md5(i::text), 9)) FROM generate_series(1, {rows}) i")
    run.signal(signal.SIGCONT)


def blue_serves_on_without_fillers(world, clients):
    assert world.serving() == "blue"
    clients.wait_for(20)
    assert not clients.errors()


def test_spool_limit(world, cutover, clients):
    book = world.playbook()
    book["capture"] = {"spool_limit": "1MB"}
    run = cutover.start("run", world.write(book), env=STALL)
    fill(world, run, 20_000)
    result = run.wait(FAILED)
    assert "spool_limit" in result.err
    blue_serves_on_without_fillers(world, clients)
    book["capture"] = {"spool_limit": "1GB"}
    cutover("resume", "shop", "--yes", "--playbook", world.write(book, "wide.ini"))
    clients.wait_for(20, version=NEW)
    assert world.green.value("SELECT count(*) FROM log.audit WHERE actor = 'filler'") == 20_000
    world.check_ledger("green")


def is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return f.read().rsplit(")", 1)[1].split()[0] == "T"


def test_pooler_does_not_answer(world, cutover, clients):
    """Stopped like a machine that hangs: the switch can't begin, and blue is not fenced."""
    book = world.playbook(switch_attempts="1")
    book["traffic pooler"]["timeout"] = "2s"
    cutover("run", world.write(book), "--yes", "--until", "deploy", status=STOPPED)
    world.pooler.process.send_signal(signal.SIGSTOP)
    try:
        result = cutover("resume", "shop", "--yes", status=None, timeout=90)
        assert result.status in (FAILED, NO_GO), str(result)
        assert "pooler" in result.all and "serving: blue" in result.out
        with world.blue.connect(user="app") as c:
            c.execute("UPDATE customers SET fax = '1' WHERE id = 1")
    finally:
        world.pooler.process.send_signal(signal.SIGCONT)
    blue_serves_on(world, clients)
    cutover("resume", "shop", "--yes")
    clients.wait_for(20, version=NEW)
    world.check_ledger("green")


def test_slot_dropped_by_hand(world, cutover, clients):
    """Changes were missed: the clone is void, and says so instead of going on."""
    run = cutover.start("run", world.write(world.playbook()))
    cutover.wait_for_gate(run, "shop")
    with world.blue.connect() as c:
        slot = c.execute("SELECT slot_name FROM pg_replication_slots WHERE NOT temporary").fetchone()[0]

        def dropped():
            c.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [slot])
            try:
                c.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            except Exception:  # active again: it reconnected  # pylint: disable=broad-exception-caught
                return False
            return True

        until(dropped, 20, "the slot is dropped", every=0.001)
    result = run.wait(NO_GO)
    assert slot in result.err and "abort" in result.err
    cutover("resume", "shop", "--yes", status=NO_GO)
    blue_serves_on(world, clients)
    cutover("abort", "--yes")
    assert not world.blue.execute("SELECT evtname FROM pg_event_trigger")


def test_ddl_by_a_superuser_who_went_round_the_guard(world, cutover, clients):
    run = cutover.start("run", world.write(world.playbook()))
    cutover.wait_for_gate(run, "shop")
    with world.blue.connect() as c:
        trigger = c.execute("SELECT evtname FROM pg_event_trigger").fetchone()[0]
        c.execute(f'ALTER EVENT TRIGGER "{trigger}" DISABLE; ALTER TABLE customers ADD COLUMN late int')
    cutover("control", "shop", "go")
    result = run.wait(None)
    assert result.status in (FAILED, NO_GO), str(result)
    assert "schema" in result.err or "customers" in result.err
    blue_serves_on(world, clients)


def test_connections_are_cut_again_and_again(world, cutover, clients):
    """All of our sessions on both sides are ended many times: capture and replay take up where they were."""
    run = cutover.start("run", world.write(world.playbook()))
    cutover.wait_for_gate(run, "shop")
    for _ in range(5):
        for side in (world.blue, world.green):
            side.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name "
                         "~ '^pgcutover/.*/(capture|apply)'", dbname="postgres")
        clients.wait_for(10)
        if not run.is_alive():
            break
    if run.is_alive():
        cutover("control", "shop", "go")
    if run.wait(None).status != DONE:  # replay may end the run; then it is taken up
        cutover("resume", "shop", "--yes")
    clients.wait_for(20, version=NEW)
    assert not world.check_ledger("green").errors()


def test_blue_failed_over(base, servers, cutover):
    """A standby takes blue's place and address: another timeline, and no slot there."""
    own = World(process.make_directory(os.path.join(base, "failover")), servers)
    blue = Cluster(own.base, "blue", servers.passwords, fsync="off")
    standby = Cluster(own.base, "standby", servers.passwords, blue.port, fsync="off")
    own.blue, own.binary = blue, cutover
    try:
        blue.init().start().create_roles()
        load(blue, SMALL)
        process.remove(standby.data)
        password = {**os.environ, "PGPASSWORD": servers.passwords.of["postgres"]}
        blue.run_tool("pg_basebackup", "-D", standby.data, "-d", blue.conninfo("postgres"), "-c", "fast", "-R",
                      env=password)
        own.binary("run", own.write(own.playbook(traffic=None, compatible="both")), "--yes", "--until", "verify",
                   status=STOPPED)
        with open(os.path.join(standby.data, "postgresql.auto.conf"), "a", encoding="ascii") as f:
            f.write(f"unix_socket_directories = '{standby.directory}'\nport = {process.free_ports(1)[0]}\n")
        standby.launch(until_it_answers=False)
        until(lambda: blue.value("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()",
                                 dbname="postgres"), 30, "the standby has caught up")
        blue.stop()
        standby.stop()
        with open(os.path.join(standby.data, "postgresql.auto.conf"), "a", encoding="ascii") as f:
            f.write(f"port = {standby.port}\n")
        standby.launch()
        standby.run_tool("pg_ctl", "promote", "-D", standby.data, "-w")
        own.blue = standby
        result = cutover("resume", "shop", "--yes", status=NO_GO)
        assert "failover" in result.err and "abort" in result.err
        with standby.connect(user="app") as c:
            c.execute("UPDATE customers SET fax = '1' WHERE id = 1")
        cutover("abort", "shop", "--yes")
        assert not servers.green.has_database("shop")
        assert not standby.execute("SELECT evtname FROM pg_event_trigger")
    finally:
        standby.stop()
        blue.stop()
        own.end()


def test_our_schema_on_blue_is_gone(world, cutover, clients):
    """Dropped by somebody, or never there on a standby that took over: abort is still a way out."""
    cutover("run", world.write(world.playbook()), "--yes", "--until", "verify", status=STOPPED)
    trigger = world.blue.value("SELECT evtname FROM pg_event_trigger LIMIT 1")
    world.blue.execute(f'ALTER EVENT TRIGGER "{trigger}" DISABLE')
    for (name,) in world.blue.execute("SELECT evtname FROM pg_event_trigger"):
        world.blue.execute(f'DROP EVENT TRIGGER "{name}"')
    world.blue.execute("DROP SCHEMA pgcutover CASCADE")
    result = cutover("resume", "shop", "--yes", status=None)
    assert result.status in (FAILED, NO_GO), str(result)
    cutover("abort", "shop", "--yes")
    assert not world.green.has_database("shop")
    assert not world.blue.execute("SELECT slot_name FROM pg_replication_slots")
    blue_serves_on(world, clients)
