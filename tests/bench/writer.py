#!/usr/bin/python3
"""A client that writes one row a millisecond and notes when each was acknowledged.

The next row is due a millisecond after the last one was, and never before that one's answer: after a pause it goes
on, it doesn't catch up. Prints a line when the first row is written, writes its report when it gets SIGTERM. Times
are those of CLOCK_MONOTONIC, which all processes share.
"""

import json
import signal
import sys
import time

from psycopg import pq

EVERY = 0.001
RECONNECT = 0.01


class Writer:
    def __init__(self, conninfo):
        self.conninfo = conninfo.encode()
        self.link = None
        self.acknowledged = []
        self.sent = 0
        self.errors = []
        self.over = False

    def connect(self):
        self.link = pq.PGconn.connect(self.conninfo)
        if self.link.status == pq.ConnStatus.OK:
            return True
        self.failed()
        return False

    def failed(self):
        self.errors.append(self.link.error_message.decode().strip())
        if self.link.status != pq.ConnStatus.OK:
            self.link.finish()
            self.link = None
            time.sleep(RECONNECT)

    def write(self):
        self.sent += 1
        result = self.link.exec_params(b"INSERT INTO ticks (id) VALUES ($1)", [str(self.sent).encode()])
        if result.status == pq.ExecStatus.COMMAND_OK:
            self.acknowledged.append((time.monotonic(), self.sent))
            return True
        self.failed()
        return False

    def work(self):
        due = time.monotonic()
        while not self.over:
            if self.link is None and not self.connect():
                continue
            if self.write() and len(self.acknowledged) == 1:
                print("writes", flush=True)
            due = max(due + EVERY, time.monotonic())
            time.sleep(max(0, due - time.monotonic()))

    def report(self, path):
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"acknowledged": self.acknowledged, "sent": self.sent, "errors": self.errors}, f)


def main():
    conninfo, path = sys.argv[1:]
    writer = Writer(conninfo)

    def stop(*_):
        writer.over = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    writer.work()
    writer.report(path)


if __name__ == "__main__":
    main()
