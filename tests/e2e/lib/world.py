"""Everything that one test needs: the pair with a shop on blue, a pooler, clients, a playbook, pgcutover."""

import os
import stat

from psycopg.conninfo import make_conninfo

from . import process, shop
from .binary import Binary
from .ledger import NEW, OLD
from .pooler import Pooler
from .shop import SMALL, Clients

HERE = os.path.dirname(os.path.abspath(__file__))
MAP = {
    "map public.customers": {"up.email": "lower(email)"},
    "map public.orders": {"up.total_cents": "(total * 100)::bigint", "down.total": "total_cents / 100.0"},
}
DEPLOY = {"start": f"{shop.APP} start", "health": f"{shop.APP} health", "move": f"{shop.APP} move",
          "move_back": f"{shop.APP} move-back", "stop": f"{shop.APP} stop", "timeout": "20s"}


class Playbook(dict):
    """Sections of keys, to be changed by a test and written."""

    def text(self):
        lines = []
        for section, keys in self.items():
            lines.append(f"[{section}]")
            lines += [f"{k} = {v}" for k, v in keys.items() if v is not None]
            lines.append("")
        return "\n".join(lines)

    def write(self, path):
        with open(path, "w", encoding="utf-8") as f:
            f.write(self.text())
        return path


class World:
    def __init__(self, base, pair, size=None):
        self.base = base
        self.pair = pair
        self.blue, self.green = pair.blue, pair.green
        self.size = size or SMALL
        self.passwords = pair.passwords
        self.binary = Binary(base, pair.passwords)
        self.name = "shop"
        self.pooler = None
        self.clients = None
        self.things = []

    # parts

    def start_pooler(self, **more):
        self.pooler = Pooler(self.base, self.passwords, self.line(self.blue), self.line(self.green), **more)
        self.things.append(self.pooler.stop)
        return self.pooler.start()

    @staticmethod
    def line(cluster, dbname="shop"):
        return f"host=127.0.0.1 port={cluster.port} dbname={dbname}"

    def start_clients(self, workers=4, rate=60, new_alias="shop_v2"):
        """Through the pooler. new_alias: where the new version connects."""
        self.clients = Clients(os.path.join(self.base, "clients"), self.passwords, self.pooler.conninfo("shop"),
                               self.pooler.conninfo(new_alias), self.size, workers, rate)
        self.things.append(self.clients.kill)
        self.binary.env["SHOP_CLIENTS"] = self.clients.directory
        return self.clients.start()

    def end(self):
        self.binary.end()
        for thing in reversed(self.things):
            thing()

    # playbooks

    def playbook(self, traffic="pgbouncer", compatible="switch", migrate=True, **cutover):
        book = Playbook()
        book["cutover"] = {"name": self.name, "switch_attempts": "3", "switch_retry": "200ms", **cutover}
        book["blue"] = {"conninfo": self.blue.conninfo()}
        book["green"] = {"conninfo": self.green.conninfo()}
        book["clone"] = {"jobs": "2"}
        book["verify"] = {"jobs": "2"}
        if migrate:
            book["migrations"] = {"directory": shop.MIGRATIONS}
            book.update({section: dict(keys) for section, keys in MAP.items()})
        book["thresholds"] = {"write_pause": "10s"}  # a busy machine; tests of the budget set their own
        book["app"] = {"compatible": compatible}
        if compatible == "switch":
            book["deploy app"] = dict(DEPLOY)
        book["gate before-hold"] = {}
        if traffic:
            book["traffic pooler"] = self.traffic(traffic, compatible)
        return book

    def traffic(self, driver, compatible):
        if driver == "pgbouncer":
            keys = {"driver": "pgbouncer", "admin": self.pooler.admin_conninfo(), "database": "shop",
                    "file": self.pooler.flip, "blue": self.pooler.blue, "green": self.pooler.green,
                    "front": self.pooler.conninfo("shop")}
            if compatible == "switch":
                keys.update(new_database="shop_v2", new_front=self.pooler.conninfo("shop_v2"))
            return keys
        tool = self.traffic_tool()
        return {"driver": "command", **{k: f"{tool} {k}" for k in (
            "probe", "prepare", "hold", "switch_blue", "switch_green", "verify", "release")}}

    def traffic_tool(self):
        """lib/traffic.sh for the pooler of this test: the same PgBouncer, driven by commands."""
        self.binary.env.update(POOLER_ADMIN=self.pooler.admin_conninfo(), POOLER_FILE=self.pooler.flip,
                               POOLER_BLUE=self.pooler.blue, POOLER_GREEN=self.pooler.green,
                               POOLER_PORT_BLUE=str(self.blue.port), POOLER_PORT_GREEN=str(self.green.port))
        return os.path.join(HERE, "traffic.sh")

    def write(self, book, name="playbook.ini"):
        return book.write(os.path.join(self.base, name))

    # what serves, and what is there

    def serving(self):
        """The side that a client's write through the pooler reaches."""
        return {self.blue.port: "blue", self.green.port: "green"}[self.pooler.port_of("shop")]

    def check_ledger(self, side, lost=(), migrated=None):
        """The clients rest and go on; their ledger is compared with one side."""
        ledger = self.clients.rest()
        cluster = {"blue": self.blue, "green": self.green}[side]
        schema = NEW if (side == "green" if migrated is None else migrated) else OLD
        with cluster.connect() as connection:
            ledger.check(connection, schema, self.size, lost)
        self.clients.work()
        return ledger

    def write_script(self, name, text):
        path = os.path.join(self.base, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return path

    def write_migrations(self, **files):
        """A directory of migrations: V1="SQL", ..."""
        directory = process.make_directory(os.path.join(self.base, "migrations"))
        for version, text in files.items():
            with open(os.path.join(directory, f"{version}__test.sql"), "w", encoding="utf-8") as f:
                f.write(text)
        return directory


def conninfo_with_password(cluster, user="postgres", dbname="shop"):
    return make_conninfo(host="127.0.0.1", port=cluster.port, dbname=dbname, user=user,
                         password=cluster.passwords.of[user])
