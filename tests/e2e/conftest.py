"""One pair of servers for all tests; a fresh shop, pooler and clients for each of them."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import process, shop  # noqa: E402  pylint: disable=wrong-import-position
from lib.binary import program  # noqa: E402  pylint: disable=wrong-import-position
from lib.servers import Pair  # noqa: E402  pylint: disable=wrong-import-position
from lib.world import World  # noqa: E402  pylint: disable=wrong-import-position

SEED = "shop_seed"  # the template of every test's shop


def pytest_configure():
    if not os.access(program(), os.X_OK):
        pytest.exit(f"{program()} can't be run: build it, or set PGCUTOVER_BIN", returncode=2)


@pytest.fixture(scope="session")
def base():
    path = process.make_temporary("pgct-")
    yield path
    process.remove(path)


@pytest.fixture(scope="session")
def servers(base):
    """Blue and green. Nothing pulls a plug here, so they needn't wait for the disk."""
    pair = Pair(base, fsync="off")
    try:
        pair.start()
        shop.load(pair.blue, shop.SMALL, SEED)
        yield pair
    finally:
        pair.stop()


@pytest.fixture
def pair(servers):
    """A fresh shop on blue, and nothing on green."""
    servers.blue.create_database("shop", template=SEED)
    yield servers
    servers.blue.clean(keep=[SEED])
    servers.green.clean()


@pytest.fixture
def world(base, pair, request):
    """All that a test needs. Whatever it did, no password may stand in a run's files."""
    directory = process.make_directory(os.path.join(base, f"t{abs(hash(request.node.nodeid)) % 10**6}"))
    it = World(directory, pair)
    try:
        yield it
    finally:
        it.end()
    it.binary.inspect_files()
    process.remove(directory)


@pytest.fixture
def cutover(world):
    """Runs pgcutover: cutover("check", PLAYBOOK, status=0)."""
    return world.binary


@pytest.fixture
def pooler(world):
    return world.start_pooler()


@pytest.fixture
def clients(world, pooler):  # pylint: disable=unused-argument
    """Four clients that write all the time, with their ledger."""
    return world.start_clients()
