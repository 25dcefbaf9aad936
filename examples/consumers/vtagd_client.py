#!/usr/bin/env python3
"""A client of vtagd's HTTP API: past events, what happens right now, and the tags of a picture. Needs nothing but Python's standard library.

Usage: vtagd_client.py [--url URL] [--token-file FILE] [--ca FILE] events [--stream ID] [--label NAME] [--limit N]
       vtagd_client.py [...] live [--stream ID]... [--kind scores|event|status]...
       vtagd_client.py [...] tag PICTURE... [--set SET] [--stream ID]

The token is read from FILE, or from the variable VTAGD_TOKEN; on the daemon's own machine reading may need none.
"""

import argparse
import http.client
import json
import mimetypes
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Client:
    def __init__(self, url="http://127.0.0.1:8642", token=None, ca=None):
        self.url, self.token = url.rstrip("/"), token
        self.tls = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None

    def open(self, path, query=None, body=None, headers=None):
        """The answer, to be read. Comes back when it is told to: 429 and 503 say after how many seconds."""
        query = {name: value for name, value in (query or {}).items() if value}
        address = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        for _ in range(10):
            try:
                request = urllib.request.Request(address, data=body, headers=headers)
                # Heartbeats come every 15 s: silence for longer is a connection that has died.
                return urllib.request.urlopen(request, timeout=60, context=self.tls)
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise SystemExit(f"{path}: {error.code} {error.read().decode(errors='replace')}") from None
                time.sleep(min(int(error.headers.get("Retry-After") or 5), 60))
        raise SystemExit(f"{path}: the daemon has no room for more")

    def events(self, limit=None, **query):
        """Past events, newest first, page after page."""
        count = 0
        while True:
            with self.open("/api/v1/events", query) as answer:
                page = json.load(answer)
            for event in page["events"]:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield event
            if not page.get("next"):
                return
            query["cursor"] = page["next"]

    def live(self, streams=(), kinds=()):
        """(kind, data) of all that happens, for ever. After a break it goes on with the event after the last one."""
        last = None
        query = {"streams": ",".join(streams), "kinds": ",".join(kinds)}
        while True:
            try:
                with self.open("/api/v1/live", query, headers={"Last-Event-ID": last} if last else None) as answer:
                    fields = {}
                    for line in answer:
                        name, _, value = line.decode().rstrip("\r\n").partition(": ")
                        if name:
                            fields[name] = value
                            continue
                        last = fields.get("id", last)
                        if "data" in fields:
                            yield fields.get("event", "message"), json.loads(fields["data"])
                        fields = {}
            except (OSError, http.client.HTTPException) as error:
                print(f"the connection broke off ({error}), trying again", file=sys.stderr, flush=True)
            time.sleep(2)

    def tag(self, file, **query):
        """The scores of a picture, set by set."""
        kind = mimetypes.guess_type(file)[0] or "image/jpeg"
        with open(file, "rb") as picture, self.open("/api/v1/tag", query, picture.read(), {"Content-Type": kind}) as answer:
            return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8642")
    parser.add_argument("--token-file")
    parser.add_argument("--ca", help="PEM file of who has signed the daemon's certificate")
    commands = parser.add_subparsers(dest="command", required=True)
    events = commands.add_parser("events")
    for name in ("stream", "set", "label", "type", "since", "until"):
        events.add_argument("--" + name)
    events.add_argument("--limit", type=int)
    live = commands.add_parser("live")
    live.add_argument("--stream", action="append", default=[])
    live.add_argument("--kind", action="append", default=[])
    tag = commands.add_parser("tag")
    tag.add_argument("picture", nargs="+")
    tag.add_argument("--set")
    tag.add_argument("--stream")
    args = vars(parser.parse_args())
    file = args.pop("token_file")
    token = open(file, encoding="utf-8").read().strip() if file else os.environ.get("VTAGD_TOKEN")
    client = Client(args.pop("url"), token, args.pop("ca"))
    command = args.pop("command")
    if command == "events":
        for event in client.events(**args):
            print(json.dumps(event), flush=True)
    elif command == "live":
        for kind, data in client.live(args["stream"], args["kind"]):
            print(json.dumps({"kind": kind, "data": data}), flush=True)
    else:
        for picture in args.pop("picture"):
            print(json.dumps({"file": picture, **client.tag(picture, **args)}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        pass
