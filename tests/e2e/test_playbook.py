"""Bad playbooks and bad command lines: exit status 2, the place, and the way on."""

import os

import pytest

from lib.binary import USAGE, Binary
from lib.servers import Passwords

GOOD = """\
[cutover]
name = t

[blue]
conninfo = host=127.0.0.1 port=1 dbname=b user=u

[green]
conninfo = host=127.0.0.1 port=1 dbname=g user=u
"""  # eight lines: what a case adds begins at line 9

CASES = {
    "unknown section": ("[treshold]\nmigrate = 1s\n", 9, ["treshold", "thresholds"]),
    "unknown key": ("[verify]\nblockrows = 5\n", 10, ["blockrows", "block_rows"]),
    "missing variable": ("[migrations]\n\ndirectory = ${NO_SUCH_VARIABLE}\n", 11, ["NO_SUCH_VARIABLE"]),
    "not a number": ("[clone]\njobs = many\n", 10, ["jobs", "many"]),
    "out of range": ("[clone]\njobs = 1000\n", 10, ["jobs", "1000", "64"]),
    "not a duration": ("[thresholds]\nwrite_pause = soon\n", 10, ["write_pause", "soon"]),
    "not in the list": ("[app]\ncompatible = maybe\n", 10, ["maybe", "both"]),
    "for later": ("[clone]\nmethod = physical\n", 10, ["physical"]),
    "duplicate key": ("[clone]\njobs = 1\njobs = 2\n", 11, ["jobs", "line 10"]),
    "duplicate section": ("[clone]\njobs = 1\n[clone]\njobs = 2\n", 11, ["clone", "line 9"]),
    "no bracket": ("[clone\njobs = 1\n", 9, ["]"]),
    "no equals sign": ("[clone]\njobs\n", 10, []),
    "a name too many": ("[clone fast]\njobs = 1\n", 9, ["clone"]),
    "a step that isn't": ("[gate before-hodl]\n", 9, ["before-hold"]),
    "file that isn't there": ("[map public.a]\nup.b = @no-such-file.sql\n", 10, ["no-such-file.sql"]),
}


@pytest.fixture
def cutover(tmp_path):
    """Nothing here gets as far as a server."""
    return Binary(str(tmp_path), Passwords(str(tmp_path)))


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "bad.ini"
        path.write_text(text, encoding="utf-8")
        return path
    return write_text


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["check", "run"])
def test_bad_playbook_names_the_line(cutover, write, case, command):
    text, line, words = CASES[case]
    result = cutover(command, write(GOOD + text), status=USAGE)
    assert f"bad.ini:{line}:" in result.err
    for word in words:
        assert word in result.err
    assert not result.out
    assert not os.listdir(cutover.runs), "a run began"


def test_missing_playbook(cutover, tmp_path):
    result = cutover("run", tmp_path / "none.ini", status=USAGE)
    assert "none.ini" in result.err and "No such file" in result.err


def test_empty_playbook_says_what_it_needs(cutover, write):
    result = cutover("check", write(""), status=USAGE)
    assert "[blue]" in result.err or "[cutover]" in result.err


def test_every_problem_is_told_at_once(cutover, write):
    result = cutover("check", write(GOOD + "[clone]\njobs = many\nmethd = archive\n"), status=USAGE)
    assert "bad.ini:10:" in result.err and "bad.ini:11:" in result.err


def test_secret_is_not_repeated(cutover, write):
    secret = "hush-4711"
    cutover.secrets.add(secret)
    cutover("check", write(GOOD + f"[traffic edge]\ndriver = pgbouncr\nblue = host=a password={secret}\n"
                                  f"grean = host=b password={secret}\n"), status=USAGE)


def test_set_and_overlay_are_checked(cutover, write, tmp_path):
    book = write(GOOD)
    assert "--set" in cutover("check", book, "--set", "clone.jbs=1", status=USAGE).err
    overlay = tmp_path / "over.ini"
    overlay.write_text("[clone]\njobs = none\n", encoding="utf-8")
    assert "over.ini:2:" in cutover("check", book, "--overlay", overlay, status=USAGE).err


@pytest.mark.parametrize("words, expected", [
    (["chekc"], "check"), (["run"], "PLAYBOOK"), (["check", "--nope"], "--help"), (["list", "--lose-writes"], "--help"),
])
def test_bad_command_line(cutover, words, expected):
    assert expected in cutover(*words, status=USAGE).err


def test_no_run_to_speak_of(cutover):
    assert "no run" in cutover("status", status=USAGE).err
    assert "nosuch" in cutover("status", "nosuch", status=USAGE).err
