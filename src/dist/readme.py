#!/usr/bin/env python3
"""Keep README.md's playbook reference equal to what the program prints.

readme.py PROGRAM [--check]: rewrites the part between the markers, or fails when it differs."""
import subprocess
import sys

BEGIN = "<!-- reference: begin (make readme) -->\n"
END = "<!-- reference: end -->"


def main():
    program, check = sys.argv[1], "--check" in sys.argv[2:]
    printed = subprocess.run([program, "reference", "--format", "markdown"], check=True,
                             capture_output=True, text=True).stdout
    with open("README.md", encoding="utf-8") as f:
        text = f.read()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    wanted = head + BEGIN + printed + END + tail
    if wanted == text:
        return 0
    if check:
        print("README.md: the playbook reference is not what the program prints; run `make readme`",
              file=sys.stderr)
        return 1
    with open("README.md", "w", encoding="utf-8") as f:
        f.write(wanted)
    return 0


sys.exit(main())
