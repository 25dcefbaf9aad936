#!/usr/bin/env python3
"""Follows an event file (CloudEvents JSON lines) and ends once enough different tags have started.

Usage: demo_events.py FILE --tags 3 --seconds 180 [--print]
Exit codes: 0 enough tags were seen, 3 the time is up. --tags 0 follows until it is killed.
"""
import argparse
import json
import sys
import time


def readable(event):
    data = event["data"]
    kind = event["type"].rsplit(".", 1)[-1]
    when = (data.get("ended_at") if kind == "end" else None) or data.get("sampled_at") or data.get("started_at") or ""
    return f"{when[11:19]}  {data['stream']:<14} {kind:<7} {data['label']:<10} {data['score']:.2f}"


def lines(file):
    """Complete lines as they are written, and None whenever there is nothing new."""
    rest = ""
    while True:
        chunk = file.readline()
        rest += chunk
        if rest.endswith("\n"):
            yield rest
            rest = ""
        elif not chunk:
            yield None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--tags", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--print", action="store_true", help="print every event as a readable line")
    args = parser.parse_args()

    seen, deadline = set(), time.monotonic() + args.seconds
    with open(args.file, encoding="utf-8") as file:
        for line in lines(file):
            if line is None:
                if args.tags and time.monotonic() > deadline:
                    print(f"seen: {', '.join(sorted(seen)) or 'nothing'}", file=sys.stderr)
                    return 3
                time.sleep(0.1)
                continue
            event = json.loads(line)
            if args.print:
                print(readable(event), flush=True)
            if event["type"].endswith(".tag.start"):
                seen.add(event["data"]["label"])
                if args.tags and len(seen) >= args.tags:
                    return 0


if __name__ == "__main__":
    sys.exit(main())
