#!/usr/bin/python3
"""The shop's application: a process whose workers write through PgBouncer and keep a ledger of it.

Two versions of it: the old one speaks the old schema through one alias, the new one the new schema through
another. One worker has one piece of work at a time, for the version that serves. A worker of the old version that
waits for the answer to its BEGIN has done nothing yet: when the work moves it closes its connection and takes its
token along to the new version.

Commands come through the pipe "control" in its directory, a line each: start-new, move, move-back, stop-new, rest,
work, stop. What came of them stands in "state.json", and every write in "ledger.jsonl".
"""

import argparse
import collections
import json
import os
import random
import select
import signal
import sys
import threading
import time

from psycopg import pq

if __package__:
    from .ledger import ACKNOWLEDGED, AMBIGUOUS, FAILED, NEW, OLD, Write
else:
    from ledger import ACKNOWLEDGED, AMBIGUOUS, FAILED, NEW, OLD, Write

ANSWER_SECONDS = 100  # longer than any pause, shorter than PgBouncer's own query_wait_timeout

KINDS = {"order": 50, "event": 18, "edit": 10, "cancel": 7, "postpone": 5, "renumber": 5, "amend": 3, "purge": 2}
NEEDS_ORDER = ("cancel", "renumber", "amend")

AUDIT = "INSERT INTO log.audit (actor, action, token, detail) VALUES ('{version}', '{kind}', '{token}', '{{}}')"
LINES = ("INSERT INTO order_lines (order_id, line_no, product_id, quantity, price) "
         "SELECT o.id, l, {product}, l, 9.95 FROM o, generate_series(1, {lines}) l")

STATEMENTS = {
    OLD: {
        "order": ["WITH o AS (INSERT INTO orders (customer_id, invoice_no, token, total, note) VALUES ({customer}, "
                  "nextval('invoice_numbers'), '{token}', {cents} / 100.0, 'old') RETURNING id) " + LINES,
                  "UPDATE customers SET order_count = order_count + 1 WHERE id = {customer}",
                  "UPDATE products SET sold = sold + 1, stock = stock - 1 WHERE id = {product}"],
        "cancel": ["UPDATE orders SET status = 'cancelled' WHERE token = '{target}'",
                   "DELETE FROM order_lines WHERE order_id = (SELECT id FROM orders WHERE token = '{target}')"],
        "renumber": ["UPDATE order_lines SET line_no = line_no + 100 "
                     "WHERE order_id = (SELECT id FROM orders WHERE token = '{target}')"],
    },
    NEW: {
        "order": ["WITH o AS (INSERT INTO purchase_orders (customer_id, invoice_no, token, total_cents, note) VALUES "
                  "({customer}, nextval('invoice_numbers'), '{token}', {cents}, 'new') RETURNING id) " + LINES,
                  "UPDATE customers SET order_count = order_count + 1, loyalty = 'bronze' WHERE id = {customer}",
                  "UPDATE products SET sold = sold + 1, stock = stock - 1 WHERE id = {product}"],
        "cancel": ["UPDATE purchase_orders SET status = 'cancelled' WHERE token = '{target}'",
                   "DELETE FROM order_lines "
                   "WHERE order_id = (SELECT id FROM purchase_orders WHERE token = '{target}')"],
        "renumber": ["UPDATE order_lines SET line_no = line_no + 100 "
                     "WHERE order_id = (SELECT id FROM purchase_orders WHERE token = '{target}')"],
    },
}
SAME = {
    "event": ["INSERT INTO log.events (at, kind, token, payload) "
              "VALUES ('2025-{lines:02d}-15 12:00 UTC', 'click', '{token}', '{{\"x\": {cents}}}')"],
    "postpone": ["UPDATE log.events SET at = at + interval '1 month' WHERE token = '{target}'"],
    "edit": ["UPDATE products SET document = "
             "jsonb_set(document, '{{edits}}', to_jsonb((document->>'edits')::int + 1)) WHERE id = {product}"],
    "amend": ["UPDATE log.audit SET detail = '{{\"amended\": true}}' WHERE token = '{target}'"],
    "purge": ["DELETE FROM log.audit WHERE ctid = (SELECT ctid FROM log.audit WHERE action = 'seed' "
              "LIMIT 1 FOR UPDATE SKIP LOCKED)"],
}
for statements in STATEMENTS.values():
    statements.update(SAME)

# the command tags that a write's statements must get: a row that isn't found has been lost
TAGS = {
    "order": ["INSERT 0 {lines}", "UPDATE 1", "UPDATE 1"], "event": ["INSERT 0 1"], "postpone": ["UPDATE 1"],
    "edit": ["UPDATE 1"], "cancel": ["UPDATE 1", "DELETE {lines}"], "renumber": ["UPDATE {lines}"],
    "amend": ["UPDATE 1"], "purge": ["DELETE 1"],
}


class Lost(Exception):
    """The connection is gone."""


class Refused(Exception):
    """The server answered with an error; the connection is still there."""


class Moved(Exception):
    """The work went to the other version while BEGIN waited."""


class Link:
    """One connection of one worker."""

    def __init__(self, conninfo, wake):
        self.wake = wake
        self.pg = pq.PGconn.connect(conninfo.encode())
        if self.pg.status != pq.ConnStatus.OK:
            message = self.pg.error_message.decode().strip()
            self.pg.finish()
            raise Lost(f"connect: {last_line(message)}")
        self.poll = select.poll()
        self.poll.register(self.pg.socket, select.POLLIN)
        self.poll.register(wake, select.POLLIN)

    def close(self):
        self.pg.finish()

    def ask(self, sql, may_move=None):
        """Runs sql as one simple query, returns the command tags. may_move: asked when we are woken."""
        try:
            self.pg.send_query(sql.encode())
        except Exception as e:  # psycopg wraps what libpq says
            raise Lost(f"send: {last_line(str(e))}") from None
        deadline = time.monotonic() + ANSWER_SECONDS
        tags, error = [], None
        while True:
            while self.pg.is_busy():
                self.wait(deadline, may_move)
            result = self.pg.get_result()
            if result is None:
                break
            if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                tags.append(result.command_status.decode())
            elif error is None:
                state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
                error = f"{state} {last_line(result.error_message.decode())}".strip()
        if self.pg.status != pq.ConnStatus.OK or (error and error[:2] in ("08", "57")):
            raise Lost(error or "connection lost")
        if error:
            raise Refused(error)
        return tags

    def wait(self, deadline, may_move):
        ready = self.poll.poll(1000)
        for fd, _ in ready:
            if fd == self.wake:
                os.eventfd_read(self.wake)
        if may_move and may_move():
            raise Moved
        if any(fd != self.wake for fd, _ in ready):
            try:
                self.pg.consume_input()
            except Exception as e:
                raise Lost(last_line(str(e))) from None
        elif time.monotonic() > deadline:
            raise Lost("no answer")


def last_line(text):
    lines = text.strip().splitlines()
    return lines[0] if lines else "connection lost"


class Worker(threading.Thread):
    def __init__(self, app, number):
        super().__init__(daemon=True)
        self.app = app
        self.random = random.Random(app.options.seed * 1000 + number)
        self.number = number
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.links = {}
        self.carried = None
        self.version = OLD
        self.writes = []
        self.mine = {"orders": {}, "events": {}}  # token -> lines or month, of writes that were acknowledged
        self.news = {"orders": set(), "events": set()}  # those of the new version: gone after a rollback
        self.idle = threading.Event()

    def rouse(self):
        os.eventfd_write(self.wake, 1)

    def run(self):
        pause = self.app.options.workers / self.app.options.rate
        due = time.monotonic() + self.random.random() * pause
        while not self.app.ending:
            now = time.monotonic()
            if self.app.resting or due > now:
                if self.app.resting:
                    self.idle.set()
                select.select([self.wake], [], [], 0.2 if self.app.resting else due - now)
                self.drain_wake()
                continue
            self.idle.clear()
            due = max(now, due + pause)
            self.work()
        for link in self.links.values():
            link.close()
        self.idle.set()

    def drain_wake(self):
        try:
            os.eventfd_read(self.wake)
        except BlockingIOError:
            pass

    # one write

    def work(self):
        version = self.app.serving
        if version != self.version:
            self.version = version
            if version == OLD:
                self.forget_news()
        try:
            link = self.link(version)
        except Lost as e:
            self.app.count_error(str(e))
            time.sleep(0.05)
            return
        write = self.carried or self.next_write()
        self.carried = None
        write.version, write.sent = version, time.monotonic()
        try:
            self.attempt(link, write)
        except Moved:
            self.drop(version)
            self.carried = write
            return
        write.done = time.monotonic()
        self.remember(write)

    def link(self, version):
        if version not in self.links:
            self.links[version] = Link(self.app.conninfo[version], self.wake)
        return self.links[version]

    def drop(self, version):
        self.links.pop(version).close()

    def attempt(self, link, write):
        stage = "begin"
        try:
            link.ask("BEGIN", may_move=lambda: self.app.serving != write.version)
            stage = "work"
            expected = [t.format(lines=write.lines) for t in TAGS[write.kind]] + ["INSERT 0 1"]
            tags = link.ask(self.text(write))
            if tags != expected:
                link.ask("ROLLBACK")
                raise Refused(f"a row was not found: {write.kind} got {tags}, not {expected}")
            stage = "commit"
            tags = link.ask("COMMIT")
            write.state = ACKNOWLEDGED if tags == ["COMMIT"] else FAILED
            if write.state == FAILED:
                write.error = f"commit: answered {tags}"
        except Refused as e:
            write.state, write.error = FAILED, f"{stage}: {e}"
            self.roll_back(link, write.version)
        except Lost as e:
            write.state, write.error = AMBIGUOUS if stage == "commit" else FAILED, f"{stage}: {e}"
            self.drop(write.version)

    def roll_back(self, link, version):
        try:
            link.ask("ROLLBACK")
        except (Lost, Refused):
            self.drop(version)

    def text(self, write):
        facts = {n: getattr(write, n) for n in Write.__slots__}
        return "; ".join(s.format(**facts) for s in [*STATEMENTS[write.version][write.kind], AUDIT])

    # what to write next

    def next_write(self):
        kind = self.random.choices(list(KINDS), KINDS.values())[0]
        orders, events = self.mine["orders"], self.mine["events"]
        if kind in NEEDS_ORDER and not orders:
            kind = "order"
        if kind == "postpone" and not events:
            kind = "event"
        write = Write(token=self.app.next_token(), kind=kind, lines=1,
                      customer=self.random.randint(1, self.app.options.customers),
                      product=self.random.randint(1, self.app.options.products),
                      cents=self.random.randint(1, 10_000_000))
        if kind == "order":
            write.lines = self.random.randint(1, 3)
        elif kind == "event":
            write.lines = self.random.randint(1, 11)
        elif kind in NEEDS_ORDER:
            write.target = self.random.choice(list(orders))
            write.lines = orders[write.target] if kind != "amend" else 1
        elif kind == "postpone":
            write.target = self.random.choice(list(events))
        return write

    def remember(self, write):
        """The next writes build upon those that were acknowledged, and never on one in doubt."""
        self.writes.append(write)
        orders, events = self.mine["orders"], self.mine["events"]
        if write.state == ACKNOWLEDGED and write.kind == "order":
            orders[write.token] = write.lines
            self.keep("orders", write)
        elif write.state == ACKNOWLEDGED and write.kind == "event":
            events[write.token] = write.lines
            self.keep("events", write)
        elif write.kind in ("cancel", "renumber") and write.state != FAILED:
            orders.pop(write.target, None)
        elif write.kind == "postpone" and write.state != FAILED:
            events.pop(write.target, None)

    def keep(self, what, write):
        mine = self.mine[what]
        if write.version == NEW:
            self.news[what].add(write.token)
        while len(mine) > 200:
            mine.pop(next(iter(mine)))

    def forget_news(self):
        if self.carried and any(self.carried.target in tokens for tokens in self.news.values()):
            self.carried = None
        for what, tokens in self.news.items():
            for token in tokens:
                self.mine[what].pop(token, None)
            tokens.clear()


class Application:
    def __init__(self, options):
        self.options = options
        self.conninfo = {OLD: options.old, NEW: options.new}
        self.serving = OLD
        self.new = "absent"
        self.resting = False
        self.ending = False
        self.lock = threading.Lock()
        self.tokens = 0
        self.connect_errors = collections.Counter()
        self.written = 0
        self.tally = collections.Counter()
        self.by_version = collections.Counter()
        self.errors = collections.Counter()
        self.times = []
        self.gap = 0.0
        self.workers = [Worker(self, n) for n in range(options.workers)]
        os.makedirs(options.directory, exist_ok=True)
        path = self.path("control")
        if not os.path.exists(path):
            os.mkfifo(path, 0o600)
        self.control = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.ledger = open(self.path("ledger.jsonl"), "a", encoding="ascii", buffering=1 << 16)
        self.positions = [0] * options.workers
        self.obeyed = collections.Counter()

    def path(self, name):
        return os.path.join(self.options.directory, name)

    def next_token(self):
        with self.lock:
            self.tokens += 1
            return f"{self.options.prefix}-{self.tokens:07d}"

    def count_error(self, text):
        with self.lock:
            self.connect_errors[text] += 1

    # commands

    def start_new(self):
        self.new = "starting"
        threading.Thread(target=self.connect_new, daemon=True).start()

    def connect_new(self):
        try:
            for w in self.workers:
                if NEW not in w.links:
                    w.links[NEW] = Link(self.conninfo[NEW], w.wake)
            self.new = "healthy"
        except Lost as e:
            self.new = f"failed: {e}"
        self.save()

    def stop_new(self):
        if self.serving == OLD:
            for w in self.workers:
                if NEW in w.links:
                    w.drop(NEW)
            self.new = "absent"

    def move(self, to):
        self.serving = to
        for w in self.workers:
            w.rouse()

    def rest(self, resting):
        for w in self.workers:
            w.idle.clear()
        self.resting = resting
        for w in self.workers:
            w.rouse()

    def obey(self, command):
        if command == "start-new":
            self.start_new()
        elif command == "stop-new":
            self.stop_new()
        elif command == "move":
            self.move(NEW)
        elif command == "move-back":
            self.move(OLD)
        elif command in ("rest", "work"):
            self.rest(command == "rest")
        elif command == "stop":
            self.ending = True
            self.rest(True)
        else:
            print(f"unknown command {command}", file=sys.stderr)
        self.obeyed[command] += 1

    # what others can see

    def collect(self):
        new = []
        for i, w in enumerate(self.workers):
            upto = len(w.writes)
            new += w.writes[self.positions[i]:upto]
            self.positions[i] = upto
        for w in new:
            self.ledger.write(w.as_json() + "\n")
            self.tally[w.state] += 1
            if w.error:
                self.errors[w.error] += 1
            if w.state == ACKNOWLEDGED:
                self.by_version[w.version] += 1
        self.ledger.flush()

    def save(self):
        with self.lock:
            resting = self.resting and all(w.idle.is_set() for w in self.workers)
            self.collect()  # after that, so that the ledger of those who rest is complete
            state = {"serving": self.serving, "new": self.new, "pid": os.getpid(), "resting": resting,
                     "obeyed": dict(self.obeyed), "states": dict(self.tally), "acknowledged": dict(self.by_version),
                     "errors": {**self.errors, **self.connect_errors}}
            temporary = self.path("state.json.new")
            with open(temporary, "w", encoding="ascii") as f:
                json.dump(state, f)
            os.rename(temporary, self.path("state.json"))

    def run(self):
        for w in self.workers:
            w.start()
        self.save()
        rest = b""
        while not self.ending:
            if select.select([self.control], [], [], 0.1)[0]:
                rest += os.read(self.control, 4096)
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    self.obey(line.decode().strip())
            self.save()
        for w in self.workers:
            w.join(ANSWER_SECONDS)
        self.save()


def main():
    parser = argparse.ArgumentParser(description="The shop's clients.")
    parser.add_argument("--directory", required=True)
    parser.add_argument("--old", required=True, help="how the old version connects")
    parser.add_argument("--new", required=True, help="how the new version connects")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=300, help="writes a second, all workers together")
    parser.add_argument("--customers", type=int, required=True)
    parser.add_argument("--products", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prefix", default="t")
    application = Application(parser.parse_args())

    def end(*_):
        application.ending = True
        application.rest(True)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the one who started us
    application.run()


if __name__ == "__main__":
    main()
