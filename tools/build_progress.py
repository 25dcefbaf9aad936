#!/usr/bin/env python3
"""Runs a cargo command and says how far it is: cargo's own bar on a terminal, a line every ten seconds elsewhere.

    tools/build_progress.py tools/cargo build --release

cargo shows nothing but names of crates where standard error is no terminal. It is asked for its bar all the same, and what stands
in front of the bar's colon (`213/467:`) becomes the line. Everything else that cargo says is passed on, but for the names.
"""

import os
import re
import subprocess
import sys
import time

EVERY = 10.0  # seconds between two lines
COUNT = re.compile(r"\] (\d+)/(\d+)")
NAMES = re.compile(r"\s*(Compiling|Checking|Downloaded|Downloading|Blocking|Locking|Updating) ")


def pieces(stream):
    """What comes between line ends of both kinds, as soon as it comes."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from whole
    if rest:
        yield rest


def main(command):
    if sys.stderr.isatty():
        os.execvp(command[0], command)
    environment = os.environ | {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "80"}
    cargo = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    due = time.monotonic() + EVERY
    for piece in pieces(cargo.stderr):
        # The bar is cleared by blanks and by terminal sequences before anything else is said.
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", piece.decode(errors="replace")).rstrip()
        count = COUNT.search(text)
        if count:
            if time.monotonic() >= due:
                due = time.monotonic() + EVERY
                print(f"building {count[1]} of {count[2]}", file=sys.stderr, flush=True)
        elif text and not NAMES.match(text):
            print(text, file=sys.stderr, flush=True)
    return cargo.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
