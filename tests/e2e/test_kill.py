"""kill -9 at every step's boundaries and inside the long ones: resume ends where an undisturbed run does."""

import random
import signal
import time

import pytest

from lib.binary import DONE, STOPPED
from lib.ledger import NEW

KILLED = -signal.SIGKILL
CLONE = ["guard", "capture", "dump", "restore", "migrate", "prove"]
LIVE = ["replay", "verify", "reverse", "deploy"]
PAUSE = ["hold", "fence", "drain", "confirm", "flip", "open", "release"]
BOUNDARIES = ["begin", "acted", "done"]

# in the pause and around its decision; in the spool, the clone and the migrations
INSIDE = {
    "capture": ["capture.identities", "capture.slot-made"],
    "restore": ["restore.created", "restore.before-mark"],
    "migrate": ["migrate.statement=die@3", "migrate.after-statement=die@2", "migrate.before-history",
                "migrate.after-commit", "migrate.done"],
    "replay": ["replay.before-commit", "replay.after-commit", "capture.before-sync", "capture.after-sync",
               "spool.append=die@20"],
    "pause": ["pause.armed", "pause.held", "pause.fenced", "drain.marked", "pause.drained", "pause.confirmed",
              "pause.flipped", "open.before-commit", "fence.before-commit"],
    "decided": ["fence.after-commit", "open.before-lift", "pause.opened", "release.before",
                "release.released"],
}


def fault(point):
    return {"PGCUTOVER_FAULT": point if "=" in point else f"{point}=die"}


def die_at(cutover, points, *words):
    """Takes the run up again and again, and dies at each point."""
    for point in points:
        result = cutover(*words, env=fault(point), status=None)
        assert result.status == KILLED, f"it did not die at {point}:\n{result}"
        words = ("resume", "shop", "--yes")


def ends_as_undisturbed(world, cutover, clients):
    cutover("resume", "shop", "--yes")
    clients.wait_for(40, version=NEW)
    ledger = world.check_ledger("green")
    assert not ledger.errors() and not ledger.ambiguous
    cutover("finish", "shop", "--unfence-blue")
    for side in (world.blue, world.green):
        assert not side.execute("SELECT slot_name FROM pg_replication_slots")
        assert not side.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgcutover%%'")


def boundaries(steps):
    return [f"step.{step}.{boundary}" for step in steps for boundary in BOUNDARIES]


@pytest.mark.parametrize("steps", [CLONE[:3], CLONE[3:], LIVE], ids=lambda s: "-".join(s))
def test_at_the_boundaries_of(world, cutover, clients, steps):
    path = world.write(world.playbook())
    words = ("run", path, "--yes")
    before = (CLONE + LIVE)[(CLONE + LIVE).index(steps[0]) - 1]
    if steps[0] != "guard":
        cutover(*words, "--until", before, status=STOPPED)
        words = ("resume", "shop", "--yes")
    die_at(cutover, boundaries(steps), *words)
    ends_as_undisturbed(world, cutover, clients)


def test_at_the_boundaries_of_the_pause(world, cutover, clients):
    """Each of these pauses is given back to blue, until the one that decides."""
    cutover("run", world.write(world.playbook()), "--yes", "--until", "deploy", status=STOPPED)
    undecided = boundaries(PAUSE[:5]) + ["step.open.begin"]
    for point in undecided:
        acknowledged = clients.acknowledged()
        die_at(cutover, [point], "resume", "shop", "--yes")
        clients.wait_for(1)
        assert clients.acknowledged() > acknowledged
    die_at(cutover, ["step.open.acted", "step.open.done", *boundaries(["release"])], "resume", "shop", "--yes")
    ends_as_undisturbed(world, cutover, clients)


@pytest.mark.parametrize("part", ["capture", "restore", "migrate"])
def test_inside_the_clone(world, cutover, clients, part):
    die_at(cutover, INSIDE[part], "run", world.write(world.playbook()), "--yes")
    ends_as_undisturbed(world, cutover, clients)


def test_inside_replay(world, cutover, clients):
    cutover("run", world.write(world.playbook()), "--yes", "--until", "prove", status=STOPPED)
    die_at(cutover, INSIDE["replay"], "resume", "shop")
    ends_as_undisturbed(world, cutover, clients)


def test_inside_the_pause(world, cutover, clients):
    cutover("run", world.write(world.playbook()), "--yes", "--until", "deploy", status=STOPPED)
    die_at(cutover, INSIDE["pause"], "resume", "shop", "--yes")
    clients.wait_for(20)
    assert world.serving() == "blue"
    die_at(cutover, INSIDE["decided"], "resume", "shop", "--yes")
    ends_as_undisturbed(world, cutover, clients)


def test_at_any_moment(world, cutover, clients):
    """Killed after a random while, again and again."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    words = ("run", world.write(world.playbook()), "--yes")
    for _ in range(12):
        run = cutover.start(*words)
        deadline = time.monotonic() + chance.uniform(0.05, 2.5)
        while run.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        run.kill()
        result = run.wait(None)
        assert result.status in (KILLED, DONE), str(result)
        if result.status == DONE:
            break
        if cutover.journal("shop"):
            words = ("resume", "shop", "--yes")
    ends_as_undisturbed(world, cutover, clients)


@pytest.mark.parametrize("step", ["restore", "verify", "reverse"])
def test_abort_after_a_kill(world, cutover, clients, step):
    before = world.blue.fingerprint()
    die_at(cutover, [f"step.{step}.acted"], "run", world.write(world.playbook()), "--yes")
    cutover("abort", "--yes")
    assert world.blue.fingerprint() == before
    assert not world.green.has_database("shop")
    clients.wait_for(10)
    assert not world.check_ledger("blue").errors()
