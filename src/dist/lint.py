#!/usr/bin/python3
"""Checks what the compiler doesn't: which module may include which, functions that are not used here,
widths and lengths, include guards. Prints file:line: reason; status 1 when something is wrong."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = 100
LONG_FILE = 600
TOO_LONG_FILE = 900

GROUND = {"base", "sys"}
SERVERS = {"playbook", "pg", "net"}
WORKERS = {"clone", "migrate", "repl", "verify", "traffic"}
BELOW_STEPS = GROUND | SERVERS | WORKERS | {"map", "run"}

# Each module, and those whose headers it may include besides its own.
MAY_INCLUDE = {
    "base": set(),
    "sys": {"base"},
    **{name: GROUND for name in SERVERS},
    "map": GROUND | SERVERS,
    **{name: GROUND | SERVERS | {"map"} for name in WORKERS},
    "run": GROUND,
    "ui": GROUND | {"run"},
    "steps": BELOW_STEPS,
    "cmd": BELOW_STEPS | {"steps", "ui"},
}

# Modules within modules that a fuzzer links alone.
ALONE = {
    "include/repl/pgoutput.h": {"base"},
    "src/repl/pgoutput.c": {"base", "repl/pgoutput.h"},
}

BANNED = {
    "sprintf": "strbuf_addf", "vsprintf": "strbuf_addv", "strcpy": "strbuf_addstr",
    "strcat": "strbuf_addstr", "strtok": "strcspn", "localtime": "clock_iso",
    "gmtime": "gmtime_r", "system": "process_run", "popen": "process_run", "gets": "file_read",
    "atoi": "strtol", "setjmp": "a return value", "longjmp": "a return value",
}
BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def c_files(*folders):
    for folder in folders:
        yield from sorted(p for p in (ROOT / folder).rglob("*.[ch]") if p.is_file())


def module_of(path):
    parts = path.relative_to(ROOT).parts
    return "cmd" if parts[0] == "cmd" else parts[1]


def blank(match):
    """Comments and strings become spaces; the lines stay where they are."""
    return re.sub(r"[^\n]", " ", match.group())


def check_includes(path, lines):
    module = module_of(path)
    alone = ALONE.get(str(path.relative_to(ROOT)))
    if module not in MAY_INCLUDE:
        yield 1, f'module "{module}" has no place in the order of modules (src/dist/lint.py)'
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if target.startswith("."):
            yield number, f'"{target}": headers are included from include/, not by a way up'
            continue
        other = target.split("/")[0] if "/" in target else module
        if other != module and other not in MAY_INCLUDE[module]:
            yield number, f'{module} must not include "{target}"'
        elif alone is not None and not {other, target} & alone:
            yield number, f'{path.name} must link alone, so it must not include "{target}"'


def check_calls(text):
    code = COMMENT_OR_STRING.sub(blank, text)
    for number, line in enumerate(code.split("\n"), 1):
        for match in BANNED_CALL.finditer(line):
            name = match.group(1)
            yield number, f"{name}() is not used here: {BANNED[name]}"


def check_form(lines):
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield number, f"{len(line)} columns, more than {COLUMNS}"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "white space at the end of the line"
    if len(lines) > TOO_LONG_FILE:
        yield len(lines), f"{len(lines)} lines, more than {TOO_LONG_FILE}: it does a second thing"


def check_guard(path, lines):
    relative = path.relative_to(ROOT / "include").with_suffix("")
    guard = "PGCUTOVER_" + re.sub(r"\W", "_", str(relative)).upper() + "_H"
    if f"#ifndef {guard}" not in lines or f"#define {guard}" not in lines:
        yield 1, f"no include guard {guard}"


def findings(path):
    text = path.read_text(encoding="utf-8")
    lines = text.removesuffix("\n").split("\n")
    yield from check_form(lines)
    if path.relative_to(ROOT).parts[0] == "tests":
        return
    yield from check_includes(path, lines)
    yield from check_calls(text)
    if path.is_relative_to(ROOT / "include"):
        yield from check_guard(path, lines)
    if LONG_FILE < len(lines) <= TOO_LONG_FILE:
        print(f"{path.relative_to(ROOT)}:{len(lines)}: warning: over {LONG_FILE} lines")


def main():
    files = list(c_files("cmd", "src", "include", "tests"))
    wrong = 0
    for path in files:
        for number, reason in findings(path):
            print(f"{path.relative_to(ROOT)}:{number}: {reason}")
            wrong += 1
    print(f"lint: {len(files)} files, {wrong} findings")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
