"""Back to blue after the switch."""

import signal

import pytest

from lib.binary import DONE, NO_GO, OPERATOR, STOPPED
from lib.ledger import NEW, OLD
from lib.wait import until
from test_cutover import nothing_is_left, writes_are_refused


@pytest.fixture
def switched(world, cutover, clients):
    before = world.blue.fingerprint()
    cutover("run", world.write(world.playbook()), "--yes")
    clients.wait_for(60, version=NEW)
    return before


def listed(cutover, kind):
    record = next(r for r in reversed(cutover.journal("shop")) if r["type"] == kind)
    return {t["table"]: (t["inserts"], t["updates"], t["deletes"]) for t in record["tables"]}, record["total"]


def blue_has_the_old_writes(world, clients, before):
    clients.wait_for(40, version=OLD)
    ledger = clients.rest()
    with world.blue.connect() as blue:
        ledger.check(blue, OLD, world.size, lost=[NEW])
    assert not ledger.errors() and not ledger.ambiguous
    assert world.blue.fingerprint() == before
    nothing_is_left(world.blue)
    return ledger


def test_refused_while_it_would_lose_writes(world, cutover, clients, switched):  # pylint: disable=unused-argument
    result = cutover("rollback", "shop", "--yes", status=NO_GO)
    assert "purchase_orders" in result.all and "inserts" in result.all and "--lose-writes" in result.all
    assert "serving: green" in result.out
    clients.wait_for(40, version=NEW)
    world.check_ledger("green")
    assert writes_are_refused(world.blue)
    assert not clients.errors()


def test_back_without_green_s_writes(world, cutover, clients, switched):
    cutover("rollback", "shop", "--yes", status=NO_GO)
    result = cutover("rollback", "shop", "--yes", "--lose-writes")
    assert "serving: blue" in result.out
    ledger = blue_has_the_old_writes(world, clients, switched)

    tables, total = listed(cutover, "lost_writes")
    news = ledger.select(version=NEW).operations()
    counted = {t.split(".")[-1]: c for t, c in tables.items()}
    assert counted["purchase_orders"] == tuple(news["orders"])
    assert counted["customers"] == tuple(news["customers"])
    assert counted["audit"] == tuple(news["audit"])
    assert counted.get("order_lines", (0, 0, 0)) == tuple(news["order_lines"])
    assert total == sum(sum(c) for c in tables.values())
    assert cutover.status("shop")["ended"] == "rolled-back"
    assert writes_are_refused(world.green), "a forgotten client may write to green"


def test_back_when_green_took_no_write(world, cutover, clients):
    before = world.blue.fingerprint()
    clients.rest()
    cutover("run", world.write(world.playbook()), "--yes")
    result = cutover("rollback", "shop", "--yes")
    assert "serving: blue" in result.out
    clients.work()
    blue_has_the_old_writes(world, clients, before)


def test_one_alias_back(world, cutover, clients):
    """compatible = both: the same clients, first on green, then on blue again."""
    before = world.blue.fingerprint()
    book = world.playbook(compatible="both", migrate=False)
    cutover("run", world.write(book), "--yes")
    clients.wait_for(40)
    on_green = clients.rest()
    with world.green.connect() as green:
        on_green.check(green, OLD, world.size)
    assert world.serving() == "green"
    cutover("rollback", "shop", "--yes", "--lose-writes")
    assert world.serving() == "blue"
    assert world.blue.fingerprint() == before
    nothing_is_left(world.blue)
    # what green took is gone; what comes now goes to blue
    seen = world.blue.value("SELECT count(*) FROM log.audit")
    clients.work()
    until(lambda: world.blue.value("SELECT count(*) FROM log.audit") > seen + 5, 20, "new writes go to blue")


def test_before_open_it_is_abort(world, cutover, clients):
    before = world.blue.fingerprint()
    cutover("run", world.write(world.playbook()), "--yes", "--until", "verify", status=STOPPED)
    cutover("rollback", "shop", "--yes")
    assert world.blue.fingerprint() == before
    assert cutover.status("shop")["ended"] == "aborted"
    clients.wait_for(10)
    assert not world.check_ledger("blue").errors()


def test_abort_after_open_is_refused(world, cutover, clients, switched):  # pylint: disable=unused-argument
    assert "rollback" in cutover("abort", "shop", "--yes", status=NO_GO).all
    clients.wait_for(10, version=NEW)
    assert writes_are_refused(world.blue)


def test_overrun_leaves_green_serving(world, cutover, clients):
    book = world.playbook(switch_attempts="2")
    book["thresholds"]["write_pause"] = "1500ms"
    cutover("run", world.write(book), "--yes")
    clients.wait_for(20, version=NEW)
    with world.pooler.connect("shop_v2") as idle:
        idle.execute("BEGIN; SELECT 1")
        cutover("rollback", "shop", "--yes", "--lose-writes", status=NO_GO)
        idle.execute("COMMIT")
    clients.wait_for(20, version=NEW)
    assert not world.check_ledger("green").errors()
    assert writes_are_refused(world.blue)
    cutover("rollback", "shop", "--yes", "--lose-writes")
    clients.wait_for(20, version=OLD)


@pytest.mark.parametrize("points", [
    ["step.rollback-prepare.acted", "step.rollback-hold.acted", "step.rollback-fence.acted", "rollback.counted",
     "step.rollback-flip.acted", "open.before-commit"],
    ["fence.after-commit", "open.before-lift", "step.rollback-open.acted", "step.rollback-release.begin",
     "rollback.released", "step.rollback-release.acted"],
], ids=["undecided", "decided"])
def test_killed_on_the_way_back(world, cutover, clients, switched, points):
    for point in points:
        result = cutover("rollback", "shop", "--yes", "--lose-writes", env={"PGCUTOVER_FAULT": f"{point}=die"},
                         status=None)
        assert result.status == -signal.SIGKILL, f"it did not die at {point}:\n{result}"
        if points[0].startswith("step"):
            clients.wait_for(2, version=NEW, timeout=20)
    cutover("rollback", "shop", "--yes", "--lose-writes", status=DONE)
    blue_has_the_old_writes(world, clients, switched)


def test_blue_s_fence_was_lifted_by_somebody(world, cutover, clients, switched):  # pylint: disable=unused-argument
    """Both sides may have taken writes: nothing goes on by itself."""
    for (table, trigger) in world.blue.execute(
            "SELECT tgrelid::regclass::text, quote_ident(tgname) FROM pg_trigger "
            "WHERE tgname LIKE 'pgcutover%%' AND tgparentid = 0"):
        world.blue.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {table}")
    cutover("rollback", "shop", "--yes", "--lose-writes", status=OPERATOR)
    clients.wait_for(10, version=NEW)
