# receiver.py
import base64, hashlib, hmac, http.server, json, os
KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers["content-length"]), 1 << 20))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        genuine = any(hmac.compare_digest(wanted, one) for one in self.headers.get("webhook-signature", "").split())
        if genuine:
            event = json.loads(body)
            print(event["type"], event["data"]["stream"], event["data"]["label"], flush=True)
        self.send_response(204 if genuine else 401)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Receiver).serve_forever()
