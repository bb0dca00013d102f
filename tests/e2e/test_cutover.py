"""The whole procedure, with clients that write all the time; gates, control, status, abort."""

import os
import signal

import psycopg
import pytest

from lib import shop
from lib.binary import DONE, FAILED, NO_GO, STOPPED, USAGE
from lib.ledger import NEW, OLD
from lib.wait import until

COMPATIBLE = {  # the old version runs on what these make
    "V1": "ALTER TABLE customers ADD COLUMN loyalty text NOT NULL DEFAULT 'none';\n"
          "ALTER TABLE order_lines ADD FOREIGN KEY (product_id) REFERENCES products;\n",
    "V2": "UPDATE customers SET email = lower(email);\nALTER TABLE customers DROP COLUMN fax;\n"
          "ALTER TABLE products RENAME COLUMN name TO title;\n",
}


def writes_are_refused(cluster, table="customers"):
    with cluster.connect(user="app") as c:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            c.execute(f"DELETE FROM {table} WHERE false")
    return True


def nothing_is_left(cluster):
    assert not cluster.execute("SELECT slot_name FROM pg_replication_slots")
    assert not cluster.execute("SELECT pubname FROM pg_publication")
    assert not cluster.execute("SELECT evtname FROM pg_event_trigger")
    assert not cluster.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgcutover%%'")
    assert not cluster.execute("SELECT gid FROM pg_prepared_xacts")
    assert not cluster.execute("SELECT roname FROM pg_replication_origin")
    until(lambda: not cluster.our_sessions(), 10, "our sessions are gone")


def test_switch_between_two_versions_under_load(world, cutover, clients):
    before = world.blue.fingerprint()
    result = cutover("run", world.write(world.playbook()), "--yes")
    assert "serving: green" in result.out and "rollback shop" in result.out and "finish shop" in result.out
    clients.wait_for(100, version=NEW)
    ledger = world.check_ledger("green")
    assert not ledger.errors() and not ledger.ambiguous
    assert writes_are_refused(world.blue)
    assert world.green.value("SELECT max(invoice_no) < 2000000 FROM purchase_orders"), "sequences were not carried"

    status = cutover.status()
    assert "green" in status["serving"] and status["pid"]
    assert {s["name"]: s["state"] for s in status["steps"]}["release"] == "done"

    cutover("finish", "shop", "--unfence-blue")
    nothing_is_left(world.blue)
    nothing_is_left(world.green)
    assert world.blue.fingerprint() == before
    assert cutover.status("shop")["ended"] == "finished"
    clients.wait_for(20, version=NEW)
    with world.blue.connect() as blue:
        clients.rest().check(blue, OLD, world.size, lost=[NEW])

    assert "ended" in cutover("resume", "shop", status=USAGE).err
    assert "ended" in cutover("rollback", "shop", "--yes", status=USAGE).err


@pytest.mark.parametrize("driver", ["pgbouncer", "command"])
def test_clients_stay_connected(world, cutover, clients, driver):
    """compatible = both: one alias, repointed while its clients wait."""
    book = world.playbook(traffic=driver, compatible="both")
    del book["map public.orders"]
    book["migrations"]["directory"] = world.write_migrations(**COMPATIBLE)
    cutover("run", world.write(book), "--yes")
    assert world.serving() == "green"
    clients.wait_for(100)
    ledger = world.check_ledger("green", migrated=False)
    assert not ledger.errors() and not ledger.ambiguous
    assert not any(w.version == NEW for w in ledger.writes)
    assert world.green.value("SELECT count(*) FROM customers WHERE email <> lower(email)") == 0


def test_ready_playbook(world, cutover, clients):
    """playbooks/online.ini as it is, for a release without migrations of data."""
    cutover.env.update(
        RUN_NAME="shop", BLUE_CONNINFO=world.blue.conninfo(), GREEN_CONNINFO=world.green.conninfo(),
        MIGRATIONS=world.write_migrations(V1=COMPATIBLE["V1"]), POOLER_ADMIN=world.pooler.admin_conninfo(),
        POOLER_DATABASE="shop", POOLER_FILE=world.pooler.flip, POOLER_BLUE=world.pooler.blue,
        POOLER_GREEN=world.pooler.green, POOLER_FRONT=world.pooler.conninfo("shop"))
    book = os.path.join(shop.ROOT, "playbooks/online.ini")
    cutover("check", book)
    cutover("run", book, "--yes", "--set", "thresholds.write_pause=10s")
    clients.wait_for(50)
    world.check_ledger("green", migrated=False)
    cutover("finish", "shop")
    assert writes_are_refused(world.blue), "a forgotten client may write to blue"
    nothing_is_left_but_the_fence = world.blue.execute("SELECT slot_name FROM pg_replication_slots")
    assert not nothing_is_left_but_the_fence


def test_no_pooler_and_no_load(world, cutover):
    cutover("run", world.write(world.playbook(traffic=None, compatible="both")), "--yes")
    assert writes_are_refused(world.blue)
    with world.green.connect(user="app") as green:
        green.execute("UPDATE customers SET loyalty = 'gold' WHERE id = 1")
    assert world.green.value("SELECT sum(total_cents) FROM purchase_orders") == \
        world.blue.value("SELECT sum(total) * 100 FROM orders")


def test_run_at_its_gate(world, cutover, clients):
    """What others can see and say while a run waits."""
    path = world.write(world.playbook())
    run = cutover.start("run", path)
    cutover.wait_for_gate(run, "shop", "hold")

    status = cutover.status()
    assert (status["run"], status["state"], status["pid"]) == ("shop", "running", run.pid)
    assert "blue" in status["serving"] and "abort" in status["way_back"] and "go" in status["next"]
    assert status["gate"] == "hold" and status["lag_bytes"] is not None
    text = cutover("status", "shop").out
    assert "serving: blue" in text and "way back: " in text and "next: " in text

    assert "shop" in cutover("run", path, "--yes", status=NO_GO).err
    cutover("resume", "shop", "--yes", status=NO_GO)
    other = world.playbook(name="other")
    other["green"]["conninfo"] = world.green.conninfo("other")
    assert "pgcutover/shop/lock" in cutover("run", world.write(other, "other.ini"), "--yes", status=NO_GO).err
    assert run.is_alive()

    assert cutover("control", "shop", "dance", status=FAILED)
    clients.wait_for(40)
    cutover("control", "shop", "go")
    run.wait(DONE)
    clients.wait_for(40, version=NEW)
    world.check_ledger("green")


def test_stop_and_go_on(world, cutover, clients):
    path = world.write(world.playbook())
    run = cutover.start("run", path)
    cutover.wait_for_gate(run, "shop")
    cutover("control", "shop", "stop")
    assert "resume shop" in run.wait(STOPPED).out
    assert cutover.status()["state"] == "stopped"
    clients.wait_for(40)

    assert "ended" not in cutover("run", path, "--yes", status=NO_GO).out  # it has not: resume it
    run = cutover.start("resume")
    cutover.wait_for_gate(run, "shop")
    run.signal(signal.SIGHUP)  # a dropped terminal
    run.wait(STOPPED)

    cutover("resume", "shop", "--yes", "--until", "verify", status=STOPPED)
    cutover("resume", "shop", "--yes")
    clients.wait_for(40, version=NEW)
    assert not world.check_ledger("green").errors()


@pytest.mark.parametrize("how", ["control", "abort", "live abort", "rollback"])
def test_abort_leaves_blue_as_it_was(world, cutover, clients, how):
    before = world.blue.fingerprint()
    run = cutover.start("run", world.write(world.playbook()))
    cutover.wait_for_gate(run, "shop")
    assert world.blue.fingerprint() != before  # it is compared with something
    if how == "control":
        cutover("control", "shop", "abort")
        run.wait(NO_GO)
    elif how == "live abort":
        cutover("abort", "shop", "--yes")
        run.wait(None)
    else:
        cutover("control", "shop", "stop")
        run.wait(STOPPED)
        cutover(how, "shop", "--yes")
    assert world.blue.fingerprint() == before
    assert not world.green.has_database("shop")
    assert not world.green.execute("SELECT roname FROM pg_replication_origin", dbname="postgres")
    nothing_is_left(world.blue)
    assert cutover.status("shop")["ended"] == "aborted"
    assert not world.pooler.is_paused("shop") and not world.pooler.is_paused("shop_v2")
    clients.wait_for(40)
    assert not world.check_ledger("blue").errors()


def test_abort_right_after_the_capture(world, cutover, pooler):  # pylint: disable=unused-argument
    before = world.blue.fingerprint()
    cutover("run", world.write(world.playbook()), "--yes", "--until", "capture", status=STOPPED)
    identity = "SELECT relreplident FROM pg_class WHERE oid = 'log.audit'::regclass"
    assert world.blue.value(identity) == "f"
    cutover("abort", "--yes")
    assert world.blue.fingerprint() == before


def test_ddl_on_blue_is_refused(world, cutover, clients):
    run = cutover.start("run", world.write(world.playbook()))
    cutover.wait_for_gate(run, "shop")
    with world.blue.connect(user="app") as c:
        for ddl in ("CREATE TABLE late (id int)", "ALTER TABLE customers ADD COLUMN late int", "DROP TABLE order_lines",
                    "CREATE INDEX ON orders (note)", "DROP VIEW open_orders", "CREATE SEQUENCE late"):
            with pytest.raises(psycopg.Error) as refused:
                c.execute(ddl)
            assert "shop" in str(refused.value) and "pgcutover" in str(refused.value), ddl
        # what applications do all day goes on
        c.execute("CREATE TEMP TABLE mine AS SELECT * FROM customers")
        c.execute("CREATE INDEX ON mine (id); ALTER TABLE mine ADD COLUMN more int; TRUNCATE mine; DROP TABLE mine")
        c.execute("SELECT * INTO TEMP other FROM orders; DROP TABLE other")
        c.execute("CREATE TEMP SEQUENCE numbers; DROP SEQUENCE numbers")
        c.execute("ANALYZE customers")
    with world.blue.connect(dbname="postgres") as c:
        c.execute("CREATE TABLE elsewhere (id int); DROP TABLE elsewhere")
    cutover("control", "shop", "go")
    run.wait(DONE)
    clients.wait_for(20, version=NEW)
    assert not world.check_ledger("green").errors()


def test_rows_of_every_kind(world, cutover, pooler):
    """What is written at the gate comes over: types, TOAST, TRUNCATE, key changes, rows that are all alike."""
    world.blue.execute("""
        CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN percent AS numeric(5, 2) CHECK (VALUE BETWEEN 0 AND 100);
        CREATE TABLE "Odd ""Name" (id bigserial PRIMARY KEY, "Sel ect" text, n numeric, f float8, r real, b bytea,
            ts timestamptz, d date, i interval, a int[], t2 text[][], m mood, p pair, pc percent, j json, u uuid,
            c char(5), v varchar(3), bits bit(4), r4 int4range, net inet, x xml, big text);
        CREATE TABLE twins (a int, b text); INSERT INTO twins SELECT 1, 'same' FROM generate_series(1, 5);
        CREATE TABLE emptied (id int PRIMARY KEY); INSERT INTO emptied SELECT generate_series(1, 9);
        CREATE TABLE keyed (a int, b int, v text, PRIMARY KEY (a, b)); INSERT INTO keyed VALUES (1, 1, 'x'), (2, 2, 'y');
        CREATE TABLE nothing ();
        INSERT INTO "Odd ""Name" (big) SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i;
        ALTER TABLE "Odd ""Name" OWNER TO app; ALTER TABLE twins OWNER TO app;
        ALTER DATABASE shop SET extra_float_digits = 0; ALTER DATABASE shop SET DateStyle = 'SQL, DMY'""")
    run = cutover.start("run", world.write(world.playbook(compatible="both")))
    cutover.wait_for_gate(run, "shop")
    world.blue.execute("""
        INSERT INTO "Odd ""Name" ("Sel ect", n, f, r, b, ts, d, i, a, t2, m, p, pc, j, u, c, v, bits, r4, net, x) VALUES
            (E'tab\\t nl\\n \\\\ ''quote''', 'NaN', 0.1 + 0.2, '-Infinity', decode('00ff5c27', 'hex'), 'infinity',
             '-infinity', '1 mon -3 days 04:05:06.789', '{}', '{{a,NULL},{"x,y",""}}', 'happy', ROW(1, 'it''s (a) "b"'),
             99.99, '{"k":  1.00}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ab', 'xyz', B'1010', '[1,5)', '::1/128',
             '<a b="1"/>'), (NULL, 1.10, 1e-300, 3.4e38, '', '4713-01-01 BC', '2024-03-02', '-1 year', '[0:1]={1,2}', NULL,
             NULL, NULL, NULL, NULL, NULL, '', '', NULL, 'empty', NULL, NULL);
        UPDATE "Odd ""Name" SET "Sel ect" = 'big is untouched' WHERE id = 1;
        UPDATE "Odd ""Name" SET id = 1000 WHERE id = 1;
        DELETE FROM twins WHERE ctid IN (SELECT ctid FROM twins LIMIT 2); INSERT INTO twins VALUES (NULL, NULL);
        UPDATE twins SET b = 'other' WHERE ctid = (SELECT ctid FROM twins WHERE b = 'same' LIMIT 1);
        TRUNCATE emptied; INSERT INTO emptied VALUES (42);
        BEGIN; UPDATE keyed SET a = 3 WHERE a = 1; UPDATE keyed SET a = 1 WHERE a = 2; UPDATE keyed SET a = 2 WHERE a = 3;
        COMMIT;
        INSERT INTO nothing DEFAULT VALUES""")
    cutover("control", "shop", "go")
    run.wait(DONE)
    for table in ('"Odd ""Name"', "twins", "emptied", "keyed", "nothing"):
        query = f"SELECT coalesce(array_agg(t::text ORDER BY t::text), '{{}}') FROM {table} t"
        settings = "SET extra_float_digits = 3; SET DateStyle = ISO; SET bytea_output = hex; "
        sides = []
        for side in (world.blue, world.green):
            with side.connect() as c:
                c.execute(settings)
                sides.append(c.execute(query).fetchone()[0])
        assert sides[0] == sides[1] and (sides[0] or table == "nothing"), table
    assert world.serving() == "green"
    assert pooler.connect("shop").execute("SHOW DateStyle").fetchone()[0].startswith("SQL")


def test_map_that_does_not_know_what_the_migration_did(world, cutover, clients):
    """The proof finds a rewritten column without a rule, and the run goes on with an edited playbook."""
    book = world.playbook()
    del book["map public.customers"]
    result = cutover("run", world.write(book), "--yes", status=NO_GO)
    assert "customers" in result.all and "email" in result.all
    assert "serving: blue" in result.out
    book["map public.customers"] = {"up.email": "upper(email)"}
    wrong = cutover("resume", "shop", "--yes", "--playbook", world.write(book, "wrong.ini"), status=NO_GO)
    assert "email" in wrong.all
    book["map public.customers"] = {"up.email": "lower(email)"}
    cutover("resume", "shop", "--yes", "--playbook", world.write(book, "right.ini"))
    clients.wait_for(40, version=NEW)
    assert not world.check_ledger("green").errors()


def test_rehearsal_leaves_nothing(world, cutover, clients):
    before = world.blue.fingerprint()
    book = world.playbook()
    book["rehearsal"] = {"replay_for": "1s"}
    book["thresholds"].update(migrate="10m", total="10m")
    result = cutover("rehearse", world.write(book))
    assert "go" in result.out
    assert world.blue.fingerprint() == before
    assert world.green.execute("SELECT datname FROM pg_database WHERE datname LIKE '%%shop%%'", dbname="postgres") == []
    book["thresholds"].update(migrate="1ms")
    assert "migrate" in cutover("rehearse", world.write(book), status=NO_GO).all
    assert world.blue.fingerprint() == before
    assert world.serving() == "blue"
    assert not clients.errors()


def test_runs_are_listed(world, cutover, pooler):  # pylint: disable=unused-argument
    path = world.write(world.playbook(compatible="both"))
    cutover("run", path, "--yes", "--until", "guard", status=STOPPED)
    cutover("abort", "--yes")
    cutover("run", path, "--yes", "--until", "guard", status=STOPPED)
    assert os.path.isdir(cutover.run_directory("shop-2"))
    runs = {r["run"]: r["state"] for r in cutover("list", "--json").json()}
    assert runs["shop"] == "aborted" and runs["shop-2"] != "aborted"
    assert cutover.status()["run"] == "shop-2"
    cutover("abort", "--yes")


def test_damaged_journal(world, cutover, pooler):  # pylint: disable=unused-argument
    cutover("run", world.write(world.playbook(compatible="both")), "--yes", "--until", "guard", status=STOPPED)
    path = os.path.join(cutover.run_directory("shop"), "journal.jsonl")
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    with open(path, "w", encoding="utf-8") as f:
        f.writelines([lines[0], lines[1].replace("0", "1", 1), *lines[2:]])
    assert "journal" in cutover("resume", "shop", "--yes", status=FAILED).err
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(lines)
        f.write(lines[-1][: len(lines[-1]) // 2])  # torn by a crash: cut off
    cutover("resume", "shop", "--yes", "--until", "capture", status=STOPPED)
    cutover("abort", "--yes")
