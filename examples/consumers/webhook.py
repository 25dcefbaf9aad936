#!/usr/bin/env python3
"""Receives webhooks and checks their signatures (Standard Webhooks 1.0). The standard library is enough.

Usage: WEBHOOK_SECRET=whsec_... webhook.py [PORT]
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"]
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
LONGEST = 1 << 20
TOLERANCE = 300  # seconds that a request may be old: an older one may be somebody's copy

seen = OrderedDict()


def is_genuine(headers, body):
    message, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not moment.isdigit() or abs(time.time() - int(moment)) > TOLERANCE:
        return False
    wanted = base64.b64encode(hmac.digest(KEY, f"{message}.{moment}.".encode() + body, hashlib.sha256)).decode()
    # There may be several: two while one secret replaces another.
    given = [part[3:] for part in headers.get("webhook-signature", "").split() if part.startswith("v1,")]
    return any(hmac.compare_digest(wanted, signature) for signature in given)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        if length > LONGEST:
            return self.answer(413)
        body = self.rfile.read(length)
        if not is_genuine(self.headers, body):
            return self.answer(401)
        content = json.loads(body)
        for event in content if isinstance(content, list) else [content]:
            if event["id"] in seen:  # it may come twice, always with the same id
                continue
            seen[event["id"]] = True
            if len(seen) > 10_000:
                seen.popitem(last=False)
            data = event["data"]
            print(event["type"].rsplit(".", 1)[1], data["stream"], data["label"], f"{data['score']:.2f}", flush=True)
        # Answer soon, work later: what is not answered in time is sent again.
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
