"""Temporary PostgreSQL clusters on loopback, with passwords, and a password file for those who connect."""

import glob
import os
import re
import secrets
import signal
import subprocess
import time

import psycopg
from psycopg.conninfo import make_conninfo

from . import process
from .wait import TimedOut, until

SUPERUSER = "postgres"
ROLES = {"app": "LOGIN", "reader": "LOGIN"}  # beside the superuser; app owns the shop

SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "10",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "fsync": "on",
    "logging_collector": "off",
    "log_line_prefix": "'%m [%p] %q%u@%d %a: '",
    "log_statement": "'none'",
    "timezone": "'UTC'",
    "password_encryption": "'scram-sha-256'",
}


def bindir():
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if not found:
        raise FileNotFoundError("no PostgreSQL server in /usr/lib/postgresql: make deps installs it")
    return os.path.dirname(max(found, key=lambda p: float(p.split("/")[4])))


class Passwords:
    """One made-up password a role, and the file that libpq reads them from."""

    def __init__(self, directory):
        self.directory = directory
        self.of = {name: f"pw{secrets.token_hex(12)}" for name in [SUPERUSER, *ROLES, "pooler_admin"]}
        self.path = os.path.join(directory, "pgpass")
        self.write()

    def add(self, role):
        self.of[role] = f"pw{secrets.token_hex(12)}"
        self.write()
        return self.of[role]

    def write(self):
        temporary = self.path + ".new"
        with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as f:
            for role, password in self.of.items():
                f.write(f"*:*:*:{role}:{password}\n")
        os.rename(temporary, self.path)


class Cluster:
    """One PostgreSQL server with a directory of its own below base."""

    def __init__(self, base, name, passwords, port=None, **settings):
        self.name = name
        self.passwords = passwords
        self.directory = process.make_directory(os.path.join(base, name), for_server=True)
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "log")
        self.port = port or process.free_ports(1)[0]
        self.settings = {**SETTINGS, **{k: str(v) for k, v in settings.items()}}
        self.process = None

    # making and running

    def run_tool(self, tool, *args, **more):
        return subprocess.run([*process.as_server(), os.path.join(bindir(), tool), *args], check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.directory, **more)

    def init(self):
        pwfile = os.path.join(self.directory, "first-password")
        with open(pwfile, "w", encoding="ascii") as f:
            f.write(self.passwords.of[SUPERUSER])
        os.chmod(pwfile, 0o600)
        process.give_to_server(pwfile)
        self.run_tool("initdb", "-D", self.data, "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", pwfile,
                      "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions")
        os.unlink(pwfile)
        return self

    def start(self, timeout=60):
        options = {**self.settings, "unix_socket_directories": f"'{self.directory}'", "port": str(self.port)}
        with open(os.path.join(self.data, "postgresql.auto.conf"), "w", encoding="ascii") as f:
            f.writelines(f"{k} = {v}\n" for k, v in options.items())
        self.launch(timeout)
        return self

    def launch(self, timeout=60, until_it_answers=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*process.as_server(), os.path.join(bindir(), "postgres"), "-D", self.data],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True)
        if not until_it_answers:
            return self
        try:
            until(self.answers, timeout, f"{self.name} answers on port {self.port}")
        except TimedOut:
            raise TimedOut(f"{self.name} did not start:\n{process.tail(self.log)}") from None
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise TimedOut(f"{self.name} ended at its start:\n{process.tail(self.log)}")
        try:
            self.connect("postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_roles(self):
        with self.connect("postgres") as c:
            for role, attributes in ROLES.items():
                c.execute(f"CREATE ROLE {role} {attributes} PASSWORD '{self.passwords.of[role]}'")
        return self

    def stop(self):
        """Ends the server as an administrator in a hurry would: open sessions are ended."""
        if self.process is not None:
            process.stop(self.process, (signal.SIGINT, 20), (signal.SIGQUIT, 10))
            self.process = None

    # speaking with it

    def conninfo(self, dbname="shop", user=SUPERUSER, **more):
        """Without a password: that is in the password file."""
        return make_conninfo(host="127.0.0.1", port=self.port, dbname=dbname, user=user, **more)

    def connect(self, dbname="shop", user=SUPERUSER, autocommit=True, **more):
        return psycopg.connect(self.conninfo(dbname, user, passfile=self.passwords.path, **more),
                               autocommit=autocommit, prepare_threshold=None)

    def execute(self, statement, *args, dbname="shop"):
        """The rows that a statement gives, or None."""
        with self.connect(dbname) as c:
            cursor = c.execute(statement, args or None)
            return cursor.fetchall() if cursor.description else None

    def value(self, statement, *args, dbname="shop"):
        return self.execute(statement, *args, dbname=dbname)[0][0]

    def create_database(self, name="shop", template=None):
        self.execute(f'CREATE DATABASE "{name}" OWNER app' + (f' TEMPLATE "{template}"' if template else ""),
                     dbname="postgres")

    def has_database(self, name):
        return bool(self.execute("SELECT 1 FROM pg_database WHERE datname = %s", name, dbname="postgres"))

    def clean(self, keep=()):
        """Back to an empty cluster: no slots, origins, prepared transactions, nor databases but the kept ones."""
        keep = {"postgres", "template0", "template1", *keep}
        with self.connect("postgres") as c:
            c.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                      "WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()")
            for gid, database in c.execute("SELECT gid, database FROM pg_prepared_xacts").fetchall():
                with self.connect(database) as d:
                    d.execute(f"ROLLBACK PREPARED '{gid}'")
            until(lambda: self.drop_slots(c), 20, f"{self.name}'s slots are gone")
            c.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")
            for (name,) in c.execute("SELECT datname FROM pg_database").fetchall():
                if name not in keep:
                    c.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    @staticmethod
    def drop_slots(c):
        c.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        c.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        return c.execute("SELECT count(*) = 0 FROM pg_replication_slots").fetchone()[0]

    # what is in it

    def dump_schema(self, dbname="shop"):
        """The schema as text, for comparing before and after. Security labels and such included."""
        done = subprocess.run([os.path.join(bindir(), "pg_dump"), "--schema-only", "-d", self.conninfo(dbname)],
                              env={**os.environ, "PGPASSFILE": self.passwords.path},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        # newer minor releases guard the text by a random word
        return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.M)

    def fingerprint(self, dbname="shop"):
        """Everything that a run could leave behind: schema, identities, slots, triggers, settings, locks."""
        queries = {
            "identities": "SELECT oid::regclass::text, relreplident FROM pg_class WHERE relkind IN ('r', 'p') "
                          "AND relnamespace::regnamespace::text !~ '^pg_' ORDER BY 1",
            "publications": "SELECT pubname, puballtables FROM pg_publication ORDER BY 1",
            "subscriptions": "SELECT subname FROM pg_subscription ORDER BY 1",
            "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger ORDER BY 1, 2",
            "event triggers": "SELECT evtname, evtevent, evtenabled FROM pg_event_trigger ORDER BY 1",
            "schemas": "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' ORDER BY 1",
            "settings": "SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.setconfig::text "
                        "FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase "
                        "LEFT JOIN pg_roles r ON r.oid = s.setrole ORDER BY 1, 2",
            "roles": "SELECT rolname, rolsuper, rolcanlogin, rolreplication, rolconnlimit FROM pg_roles ORDER BY 1",
            "database": "SELECT datname, datallowconn, datconnlimit, pg_get_userbyid(datdba), datacl::text "
                        "FROM pg_database ORDER BY 1",
            "origins": "SELECT roname FROM pg_replication_origin ORDER BY 1",
        }
        facts = {name: self.execute(sql, dbname=dbname) for name, sql in queries.items()}
        facts["slots"] = self.execute("SELECT slot_name FROM pg_replication_slots ORDER BY 1", dbname=dbname)
        facts["schema"] = self.dump_schema(dbname)
        return facts

    def our_sessions(self):
        """Sessions of pgcutover that are still there."""
        return self.execute("SELECT application_name, state FROM pg_stat_activity "
                            "WHERE application_name LIKE 'pgcutover/%%' ORDER BY 1", dbname="postgres")


class Pair:
    """Blue and green."""

    def __init__(self, base, **settings):
        self.base = base
        self.passwords = Passwords(base)
        ports = process.free_ports(2)
        self.blue = Cluster(base, "blue", self.passwords, ports[0], **settings)
        self.green = Cluster(base, "green", self.passwords, ports[1], **settings)

    def start(self):
        begun = time.monotonic()
        for cluster in (self.blue, self.green):
            cluster.init().start().create_roles()
        self.seconds = time.monotonic() - begun
        return self

    def stop(self):
        for cluster in (self.green, self.blue):
            cluster.stop()
