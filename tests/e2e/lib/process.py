"""Child processes that never outlive us, and the free ports they listen on."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile

SERVER_USER = "postgres"


def as_server():
    """The words to put before a server's command line: PostgreSQL and PgBouncer refuse to be root.

    The kernel ends the server when we die, however we die.
    """
    words = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        words += ["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups"]
    return words


def give_to_server(path):
    if os.geteuid() == 0:
        user = pwd.getpwnam(SERVER_USER)
        os.chown(path, user.pw_uid, user.pw_gid)


def make_directory(path, for_server=False):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)
    if for_server:
        give_to_server(path)
    return path


def make_temporary(prefix):
    """A directory with a short path (sockets go into it) that the server's user may pass through."""
    base = os.environ.get("TMPDIR", "/tmp")
    path = tempfile.mkdtemp(prefix=prefix, dir=base if len(base) < 40 else "/tmp")
    os.chmod(path, 0o755)
    return path


def remove(path):
    shutil.rmtree(path, ignore_errors=True)


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    sockets = []
    try:
        for _ in range(count):
            s = socket.socket()
            sockets.append(s)
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


_libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent(number=signal.SIGKILL):
    """For preexec_fn: the child gets this signal when its parent dies."""
    def prepare():
        _libc.prctl(PR_SET_PDEATHSIG, number)
    return prepare


def stop(process, *steps):
    """Sends each (signal, seconds to wait) until the process has ended, at last SIGKILL."""
    for number, seconds in steps:
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
        process.wait(10)
    return process.returncode


def tail(path, lines=30):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-lines:])
    except OSError as e:
        return str(e)
