"""A PgBouncer before the two servers, with the aliases shop (old version) and shop_v2 (new version)."""

import os
import signal
import subprocess

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from . import process
from .wait import TimedOut, until

ADMIN = "pooler_admin"

CONFIG = """\
[databases]
%include {flip}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
admin_users = {admin}
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
logfile = {log}
pidfile = {pid}
"""


class Pooler:
    def __init__(self, base, passwords, blue, green, name="pooler", program="pgbouncer"):
        """blue, green: the right sides of the lines of [databases]."""
        self.passwords = passwords
        self.program = program
        self.directory = process.make_directory(os.path.join(base, name), for_server=True)
        self.port = process.free_ports(1)[0]
        self.blue, self.green = blue, green
        self.flip = os.path.join(self.directory, "databases.ini")
        self.log = os.path.join(self.directory, "log")
        self.process = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text, mode=0o644):
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(self.path(name), mode)
        process.give_to_server(self.path(name))

    def start(self):
        self.write("databases.ini", f"shop = {self.blue}\nshop_v2 = {self.green}\n")
        self.write("users.txt", "".join(f'"{role}" "{pw}"\n' for role, pw in self.passwords.of.items()), 0o600)
        self.write("pgbouncer.ini", CONFIG.format(flip=self.flip, port=self.port, users=self.path("users.txt"),
                                                  admin=ADMIN, log=self.log, pid=self.path("pid")))
        return self.launch()

    def launch(self):
        with open(self.path("output"), "ab") as out:
            self.process = subprocess.Popen(
                [*process.as_server(), self.program, self.path("pgbouncer.ini")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.directory, start_new_session=True)
        until(self.answers, 20, "PgBouncer answers")
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise TimedOut(f"PgBouncer ended at its start:\n{process.tail(self.path('output'))}")
        try:
            self.show("VERSION")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self):
        if self.process is not None:
            process.stop(self.process, (signal.SIGINT, 3), (signal.SIGTERM, 3))
            self.process = None

    # the admin console takes simple queries only

    def admin_conninfo(self):
        return make_conninfo(host="127.0.0.1", port=self.port, dbname="pgbouncer", user=ADMIN)

    def admin(self, command):
        """Runs one command, returns its rows as dictionaries."""
        conninfo = make_conninfo(self.admin_conninfo(), passfile=self.passwords.path, connect_timeout=5)
        c = pq.PGconn.connect(conninfo.encode())
        try:
            if c.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError(c.error_message.decode())
            r = c.exec_(command.encode())
            if r.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise psycopg.OperationalError(f"{command}: {r.error_message.decode()}")
            names = [r.fname(i).decode() for i in range(r.nfields)]
            return [{n: (r.get_value(row, i) or b"").decode() for i, n in enumerate(names)}
                    for row in range(r.ntuples)]
        finally:
            c.finish()

    def show(self, what):
        return self.admin(f"SHOW {what}")

    def database(self, alias):
        return next(d for d in self.show("DATABASES") if d["name"] == alias)

    def is_paused(self, alias="shop"):
        return self.database(alias)["paused"] == "1"

    def port_of(self, alias="shop"):
        return int(self.database(alias)["port"])

    # clients

    def conninfo(self, alias="shop", user="app", **more):
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=alias, user=user, **more)

    def connect(self, alias="shop", user="app", **more):
        return psycopg.connect(self.conninfo(alias, user, passfile=self.passwords.path, **more),
                               autocommit=True, prepare_threshold=None)
