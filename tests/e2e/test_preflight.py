"""check and plan: what they find, and that they and a refused run change nothing."""

import pytest

from lib.binary import FAILED, NO_GO
from lib.proxy import OldServer
from lib.servers import Cluster
from lib.world import conninfo_with_password


def unchanged(world):
    return world.blue.fingerprint(), world.green.execute("SELECT datname FROM pg_database ORDER BY 1", dbname="postgres")


@pytest.fixture
def book(world, pooler):  # pylint: disable=unused-argument
    return world.playbook()


def refused(world, cutover, book, *words, status=NO_GO):
    """check and run say no, with these words, and nothing has changed."""
    before = unchanged(world)
    path = world.write(book)
    for command in (["check", path], ["run", path, "--yes"]):
        result = cutover(*command, status=status)
        for word in words:
            assert word in result.all, str(result)
    assert unchanged(world) == before
    assert not world.blue.our_sessions()
    return result


def test_good_pair(world, cutover, book):
    before = unchanged(world)
    path = world.write(book)
    cutover("check", path)
    assert cutover("check", path, "--json").json()
    plan = cutover("plan", path).out
    for word in ("CREATE PUBLICATION", "SLOT", "V2__purchase_orders.sql", "PAUSE", "COMMIT", "app move"):
        assert word in plan
    assert unchanged(world) == before
    assert not world.pooler.is_paused("shop") and not world.pooler.is_paused("shop_v2")


def test_wrong_password(world, cutover, book):
    wrong = "not-the-password-0815"
    cutover.secrets.add(wrong)
    cutover.env["BLUE"] = book["blue"]["conninfo"] + f" password={wrong}"
    book["blue"]["conninfo"] = "${BLUE}"
    refused(world, cutover, book, "blue", "password authentication failed")


def test_passwords_in_the_playbook_stay_there(world, cutover, book):
    book["blue"]["conninfo"] = "${BLUE}"
    book["green"]["conninfo"] = "${GREEN}"
    cutover.env.update(PGPASSFILE=None, BLUE=conninfo_with_password(world.blue),
                       GREEN=conninfo_with_password(world.green))
    book["traffic pooler"].update(
        admin=world.pooler.admin_conninfo() + f" password={world.passwords.of['pooler_admin']}",
        front=world.pooler.conninfo("shop") + f" password={world.passwords.of['app']}",
        new_front=world.pooler.conninfo("shop_v2") + f" password={world.passwords.of['app']}")
    cutover("check", world.write(book))
    cutover("plan", world.write(book))


def test_server_down(world, cutover, book):
    book["green"]["conninfo"] = "host=127.0.0.1 port=1 dbname=shop user=postgres connect_timeout=5"
    refused(world, cutover, book, "green", "refused")


@pytest.mark.parametrize("side", ["blue", "green"])
def test_server_too_old(world, cutover, book, side):
    real = getattr(world, side)
    old = OldServer(real.port, "11.22")
    try:
        book[side]["conninfo"] = real.conninfo().replace(f"port={real.port}", f"port={old.port}")
        refused(world, cutover, book, side, "11", "12")
    finally:
        old.close()


def test_wal_level_not_logical(base, world, cutover, book):
    plain = Cluster(base, "plain", world.passwords, fsync="off", wal_level="replica")
    try:
        plain.init().start().create_roles()
        plain.create_database()
        book["blue"]["conninfo"] = plain.conninfo()
        refused(world, cutover, book, "wal_level", "replica")
    finally:
        plain.stop()


def test_no_rights(world, cutover, book):
    book["blue"]["conninfo"] = world.blue.conninfo(user="reader")
    refused(world, cutover, book, "reader", "REPLICATION")


def test_green_database_is_there(world, cutover, book):
    world.green.create_database()
    refused(world, cutover, book, "shop", "exists")


def test_green_not_empty(world, cutover, book):
    world.green.create_database()
    world.green.execute("CREATE TABLE precious (id int)")
    book["green"]["create"] = "no"
    refused(world, cutover, book, "green", "empty")
    assert world.green.value("SELECT count(*) FROM precious") == 0


def test_roles_missing_on_green(world, cutover, book):
    world.blue.execute("CREATE ROLE billing NOLOGIN; GRANT SELECT ON orders TO billing")
    try:
        refused(world, cutover, book, "billing")
    finally:
        world.blue.execute("DROP OWNED BY billing; DROP ROLE billing")


def test_green_is_blue(world, cutover, book):
    book["green"]["conninfo"] = book["blue"]["conninfo"]
    refused(world, cutover, book, "same")


def test_prepared_transaction(world, cutover, book):
    world.blue.execute("BEGIN; UPDATE customers SET fax = '1' WHERE id = 1; PREPARE TRANSACTION 'waiting'")
    refused(world, cutover, book, "prepared")


def test_migrations_missing(world, cutover, book):
    book["migrations"]["directory"] = f"{world.base}/nowhere"
    refused(world, cutover, book, "nowhere")


def test_migration_with_a_syntax_error(world, cutover, book):
    book["migrations"]["directory"] = world.write_migrations(V1="CREATE TABLE a (id int);\n\nALTER TABEL a;\n")
    refused(world, cutover, book, "V1__test.sql", "3", "syntax error")


def test_pooler_not_there(world, cutover, book):
    world.pooler.stop()
    refused(world, cutover, book, "PgBouncer", "refused")


def test_pooler_in_session_mode(world, cutover, book):
    world.pooler.blue += " pool_mode=session"
    world.pooler.stop()
    world.pooler.start()
    refused(world, cutover, book, "session")


def test_pooler_points_at_green(world, cutover, book):
    world.pooler.write("databases.ini", f"shop = {world.pooler.green}\nshop_v2 = {world.pooler.green}\n")
    world.pooler.admin("RELOAD")
    refused(world, cutover, book, "traffic", str(world.green.port))


def test_directory_of_runs_can_not_be_made(world, cutover, book):
    before = unchanged(world)
    result = cutover("run", world.write(book), "--yes", "--dir", "/dev/null/runs", status=FAILED)
    assert "/dev/null" in result.err
    assert unchanged(world) == before
