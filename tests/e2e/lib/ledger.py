"""The clients' memory of every write, and its comparison with what a database holds.

A write is one transaction with a token of its own. Its state:
  acknowledged  COMMIT was answered: it must be there, whole, once
  failed        an error, or the connection was lost before COMMIT was sent: nothing of it may be there
  ambiguous     the connection was lost after COMMIT was sent: all of it or nothing
"""

import collections
import json
import os

ACKNOWLEDGED, FAILED, AMBIGUOUS = "acknowledged", "failed", "ambiguous"
OLD, NEW = "old", "new"  # the two versions of the application

# What a kind of write does, as (table of blue, inserts, updates, deletes). "lines" stands for the order's.
OPERATIONS = {
    "order": [("orders", 1, 0, 0), ("order_lines", "lines", 0, 0), ("customers", 0, 1, 0), ("products", 0, 1, 0)],
    "event": [("events", 1, 0, 0)],
    "postpone": [("events", 0, 1, 0)],  # into another partition: a delete and an insert
    "edit": [("products", 0, 1, 0)],
    "cancel": [("orders", 0, 1, 0), ("order_lines", 0, 0, "lines")],
    "renumber": [("order_lines", 0, "lines", 0)],  # changes the primary key
    "amend": [("audit", 0, 1, 0)],
    "purge": [("audit", 0, 0, 1)],  # one of several rows that are all alike
}

SQL = {
    OLD: {"orders": "SELECT token, count(*), min((total * 100)::bigint), min(status::text) FROM orders",
          "seeds": "SELECT count(*) FROM orders",
          "lines": "SELECT o.token, count(l.order_id), coalesce(sum(l.line_no), 0) FROM orders o"},
    NEW: {"orders": "SELECT token, count(*), min(total_cents), min(status::text) FROM purchase_orders",
          "seeds": "SELECT count(*) FROM purchase_orders",
          "lines": "SELECT o.token, count(l.order_id), coalesce(sum(l.line_no), 0) FROM purchase_orders o"},
}


class Write:
    __slots__ = ("token", "version", "kind", "state", "sent", "done", "customer", "product", "cents", "lines",
                 "target", "error")

    def __init__(self, **facts):
        for name in self.__slots__:
            setattr(self, name, facts.get(name))

    def as_json(self):
        return json.dumps({n: v for n in self.__slots__ if (v := getattr(self, n)) is not None})

    def operations(self):
        """What it does, table by table (blue's names), beside its row in the audit log."""
        done = collections.defaultdict(lambda: [0, 0, 0])
        for table, *counts in [*OPERATIONS[self.kind], ("audit", 1, 0, 0)]:
            for i, n in enumerate(counts):
                done[table][i] += self.lines if n == "lines" else n
        return done


class Problems(AssertionError):
    pass


class Ledger:
    def __init__(self, writes):
        self.writes = list(writes)

    @classmethod
    def read(cls, directory):
        with open(os.path.join(directory, "ledger.jsonl"), encoding="ascii") as f:
            return cls(Write(**json.loads(line)) for line in f)

    def select(self, state=None, version=None, since=None, until=None):
        return Ledger(w for w in self.writes if (state is None or w.state == state) and
                      (version is None or w.version == version) and
                      (since is None or w.done >= since) and (until is None or w.done <= until))

    def __len__(self):
        return len(self.writes)

    @property
    def acknowledged(self):
        return self.select(ACKNOWLEDGED)

    @property
    def failed(self):
        return self.select(FAILED)

    @property
    def ambiguous(self):
        return self.select(AMBIGUOUS)

    def errors(self):
        return dict(collections.Counter(w.error for w in self.writes if w.error))

    def first(self):
        return min(w.done for w in self.writes)

    def last(self):
        return max(w.done for w in self.writes)

    def longest_gap(self):
        """(seconds, when it ended): the longest time without an acknowledgement, of all clients together."""
        times = sorted(w.done for w in self.acknowledged.writes)
        return max(((b - a, b) for a, b in zip(times, times[1:])), default=(0.0, 0.0))

    def gap_at_switch(self, of=OLD, to=NEW):
        """Seconds between the last acknowledgement of one version and the first of the other after it."""
        last = self.select(ACKNOWLEDGED, of).last()
        after = [w.done for w in self.select(ACKNOWLEDGED, to).writes if w.done >= last]
        return min(after) - last if after else None

    def operations(self):
        """Inserts, updates and deletes by table (blue's names) of the acknowledged writes."""
        total = collections.defaultdict(lambda: [0, 0, 0])
        for w in self.acknowledged.writes:
            for table, counts in w.operations().items():
                for i, n in enumerate(counts):
                    total[table][i] += n
        return dict(total)

    def check(self, connection, schema, size, lost=()):
        """Compares with a database that has the OLD or the NEW schema; raises Problems.

        size: what the shop began with. lost: the versions whose writes must not be there (after a rollback that
        gave them up). Returns how many acknowledged writes are there.
        """
        problems = find_problems(self, Contents(connection, schema), size, lost)
        if problems:
            shown = "\n".join(problems[:20])
            raise Problems(f"{len(problems)} differences from the ledger, the first:\n{shown}")
        return sum(w.version not in lost for w in self.acknowledged.writes)


class Contents:
    """What a shop database holds, as far as the ledger can tell of it."""

    def __init__(self, connection, schema):
        def ask(query, *args):
            return connection.execute(query, args or None).fetchall()

        sql = SQL[schema]
        self.orders = {t: rest for t, *rest in ask(f"{sql['orders']} WHERE token NOT LIKE 'seed-%%' GROUP BY token")}
        self.lines = {t: rest for t, *rest in ask(
            f"{sql['lines']} LEFT JOIN order_lines l ON l.order_id = o.id "
            "WHERE o.token NOT LIKE 'seed-%%' GROUP BY o.token")}
        self.audit = {t: rest for t, *rest in ask(
            "SELECT token, count(*), bool_or(coalesce((detail->>'amended')::boolean, false)) "
            "FROM log.audit WHERE token IS NOT NULL GROUP BY token")}
        self.events = {t: rest for t, *rest in ask(
            "SELECT token, count(*), min(extract(month FROM at AT TIME ZONE 'UTC'))::int FROM log.events "
            "WHERE token IS NOT NULL GROUP BY token")}
        self.seeds = {what: ask(query)[0][0] for what, query in {
            "audit": "SELECT count(*) FROM log.audit WHERE action = 'seed'",
            "events": "SELECT count(*) FROM log.events WHERE token IS NULL",
            "customers": "SELECT count(*) FROM customers", "products": "SELECT count(*) FROM products",
            "orders": f"{sql['seeds']} WHERE token LIKE 'seed-%%'"}.items()}
        self.customers = dict(ask("SELECT id, order_count FROM customers WHERE order_count <> 0"))
        self.products = {i: (sold, 1000000 - stock, edits) for i, sold, stock, edits in ask(
            "SELECT id, sold, stock, (document->>'edits')::int FROM products "
            "WHERE sold <> 0 OR stock <> 1000000 OR document->>'edits' <> '0'")}

    def tokens(self):
        return set(self.orders) | set(self.audit) | set(self.events)


def find_problems(ledger, found, size, lost):
    problems = []
    there = []
    for w in ledger.writes:
        is_there = w.token in found.audit
        if w.version in lost or w.state == FAILED:
            continue
        if is_there:
            there.append(w)
        elif w.state == ACKNOWLEDGED:
            problems.append(f"lost: {w.kind} {w.token} by the {w.version} version, acknowledged")

    expected = Expected(there)
    for token in sorted(found.tokens() - {w.token for w in there}):
        problems.append(f"should not be there: {token}")
    seeds = {**size, "audit": size["audit"] - expected.purged}
    for what, count in found.seeds.items():
        if count != seeds[what]:
            problems.append(f"rows of {what} from the beginning: {count}, should be {seeds[what]}")
    return problems + expected.compare(found)


class Expected:
    """The rows that a set of writes leaves."""

    def __init__(self, writes):
        self.orders, self.lines, self.audit, self.events = {}, {}, {}, {}
        self.customers = collections.Counter()
        self.products = collections.defaultdict(lambda: [0, 0, 0])
        self.purged = 0
        for w in sorted(writes, key=lambda w: w.done):  # a target's own write comes before
            getattr(self, w.kind)(w)
            self.audit[w.token] = self.audit.get(w.token) or [1, False]

    def order(self, w):
        self.orders[w.token] = [1, w.cents, "new"]
        self.lines[w.token] = [w.lines, w.lines * (w.lines + 1) // 2]
        self.customers[w.customer] += 1
        self.products[w.product][0] += 1
        self.products[w.product][1] += 1

    def event(self, w):
        self.events[w.token] = [1, w.lines]  # lines: the month

    def postpone(self, w):
        if w.target in self.events:
            self.events[w.target][1] += 1

    def edit(self, w):
        self.products[w.product][2] += 1

    def cancel(self, w):
        if w.target in self.orders:
            self.orders[w.target][2] = "cancelled"
            self.lines[w.target] = [0, 0]

    def renumber(self, w):
        if w.target in self.lines:
            self.lines[w.target][1] += 100 * w.lines

    def amend(self, w):
        self.audit[w.target] = [1, True]

    def purge(self, _):
        self.purged += 1

    def compare(self, found):
        problems = []
        for what in ("orders", "lines", "audit", "events"):
            mine, theirs = getattr(self, what), getattr(found, what)
            for token in sorted(mine.keys() | theirs.keys()):
                if mine.get(token) != theirs.get(token):
                    problems.append(f"{what} of {token}: {theirs.get(token)}, should be {mine.get(token)}")
        for customer in sorted(self.customers.keys() | found.customers.keys()):
            if self.customers[customer] != found.customers.get(customer, 0):
                problems.append(f"customer {customer}: order_count {found.customers.get(customer, 0)}, "
                                f"should be {self.customers[customer]}")
        for product in sorted(self.products.keys() | found.products.keys()):
            mine, theirs = list(self.products[product]), list(found.products.get(product, (0, 0, 0)))
            if mine != theirs:
                problems.append(f"product {product}: sold, taken, edits {theirs}, should be {mine}")
        return problems
