"""Cameras of other kinds beside the soak's RTSP ones: polled stills and pushed pictures that fail now and then, MPEG-TS over UDP that stops
and begins again. For benches/soak.py; nothing here is measured."""
import http.server
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

VIDEO = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! mpegtsmux alignment=7 ! udpsink host=127.0.0.1 port={}"
)


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Kinds:
    """Faults happen until `heal`."""

    def __init__(self, picture, seed):
        self.picture, self.random, self.healthy = picture, random.Random(seed), threading.Event()
        self.over = threading.Event()
        kinds = self

        class Stills(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                chance = 1 if kinds.healthy.is_set() else kinds.random.random()
                if chance < 0.05:
                    # In the middle of a picture.
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(kinds.picture)))
                    self.end_headers()
                    self.wfile.write(kinds.picture[: len(kinds.picture) // 2])
                    self.close_connection = True
                    return
                status, body = (503, b"") if chance < 0.1 else (200, kinds.picture)
                self.send_response(status)
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                """A daemon that ends takes its connections with it: that is no fault of this server's."""
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Stills)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.udp = free_udp_port()
        self.launch = shutil.which("gst-launch-1.0")
        if self.launch:
            threading.Thread(target=self.send_udp, daemon=True).start()

    def rows(self):
        rows = f"  - {{ id: stills, url: \"http://127.0.0.1:{self.server.server_address[1]}/snapshot.jpg\" }}\n"
        rows += "  - { id: pushed, url: \"push://soak\" }\n"
        if self.launch:
            rows += f"  - {{ id: udp, url: \"udp://127.0.0.1:{self.udp}\" }}\n"
        return rows

    def count(self):
        return 3 if self.launch else 2

    def begin_to_push(self, url):
        threading.Thread(target=self.push, args=(f"{url}/api/v1/streams/pushed/frames",), daemon=True).start()

    def push(self, address):
        while not self.over.wait(0.5):
            body = self.picture
            if not self.healthy.is_set() and self.random.random() < 0.1:
                body = body[: self.random.randrange(len(body))]
            request = urllib.request.Request(address, body, {"Content-Type": "image/jpeg"})
            try:
                urllib.request.urlopen(request, timeout=10).close()
            except (urllib.error.URLError, OSError):
                # A picture that is cut is refused, and the daemon ends before this does.
                pass

    def send_udp(self):
        while not self.over.is_set():
            sender = subprocess.Popen([self.launch, "-q", *VIDEO.format(self.udp).split()], stderr=subprocess.DEVNULL)
            until = time.monotonic() + self.random.uniform(10, 60)
            while not self.over.wait(0.5) and (self.healthy.is_set() or time.monotonic() < until):
                pass
            sender.kill()
            sender.wait()
            self.over.wait(self.random.uniform(1, 5))

    def heal(self):
        self.healthy.set()

    def stop(self):
        self.over.set()
        self.server.shutdown()
