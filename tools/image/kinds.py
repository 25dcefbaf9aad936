#!/usr/bin/env python3
"""Cameras of every kind on loopback, which all show one clip again and again, and somebody who pushes pictures of it. For test_image.sh.

Usage: kinds.py CLIP FOLDER PUSH_PORT    Writes FOLDER/streams.yaml (a stream a kind, and the folder's certificate and token), prints `ready`, and
serves until its standard input is closed. Ports are chosen by the system."""
import functools
import http.server
import json
import pathlib
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

import gi
import rtmp

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtspServer  # noqa: E402

SCENE = 8  # seconds that the clip shows each of its pictures
STOPPED = threading.Event()
CHILDREN = []


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def keep_running(*command):
    """Again and again: who has sent to one client is done."""
    def loop():
        while not STOPPED.is_set():
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            CHILDREN.append(child)
            child.wait()
            CHILDREN.remove(child)
            STOPPED.wait(0.2)
    threading.Thread(target=loop, daemon=True).start()


class Camera(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scenes = []

    def log_message(self, *_):
        pass

    def picture(self):
        return self.scenes[int(time.monotonic() / SCENE) % len(self.scenes)]

    def do_GET(self):
        if self.path == "/still.jpg":
            data = self.picture()
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif self.path == "/pictures":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while not STOPPED.is_set():
                    data = self.picture()
                    self.wfile.write(b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data))
                    STOPPED.wait(0.25)
            except OSError:
                pass  # the client has gone
            self.close_connection = True
        else:
            super().do_GET()


def serve(folder, certificate=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Camera, directory=folder))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, folder / "camera.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'https' if certificate else 'http'}://localhost:{server.server_port}"


def rtsp(clip, certificate=None, key=None):
    port = free_port()
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(port))
    if certificate:
        auth = GstRtspServer.RTSPAuth()
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(str(certificate), str(key)))
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "anonymous")
        auth.set_default_token(token)
        server.set_auth(auth)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f'( filesrc location="{clip}" ! qtdemux ! h264parse ! rtph264pay name=pay0 config-interval=-1 )')
    if certificate:
        permissions = GstRtspServer.RTSPPermissions()
        for permission in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("anonymous", permission, True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/clip", factory)
    server.attach(None)
    return server, f"{'rtsps' if certificate else 'rtsp'}://localhost:{port}/clip"


def push(port, name, token):
    address = f"http://127.0.0.1:{port}/api/v1/streams/{name}/frames"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
    while not STOPPED.wait(0.5):
        try:
            urllib.request.urlopen(urllib.request.Request(address, Camera.picture(Camera), headers), timeout=5).close()
        except OSError:
            pass  # not there yet, or restarted


def main(clip, folder, push_port):
    clip, folder = pathlib.Path(clip).resolve(), pathlib.Path(folder).resolve()
    quiet = ("ffmpeg", "-v", "error", "-nostdin", "-y")
    # Small, so that one machine with two cores plays thirteen of them; a keyframe each second, as cameras have.
    run(*quiet, "-i", str(clip), "-an", "-vf", "scale=480:-2", "-r", "5", "-g", "5", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-tune", "zerolatency", str(folder / "clip.mp4"))
    clip = folder / "clip.mp4"
    again = (*quiet, "-re", "-stream_loop", "-1", "-i", str(clip), "-an", "-c", "copy")
    run(*quiet, "-i", str(clip), "-an", "-c", "copy", str(folder / "clip.mkv"))
    run(*quiet, "-i", str(clip), "-an", "-c", "copy", str(folder / "clip.flv"))
    run(*quiet, "-i", str(clip), "-an", "-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0", str(folder / "hls.m3u8"))
    for scene in range(4):
        picture = folder / f"scene-{scene}.jpg"
        run(*quiet, "-ss", str(scene * SCENE + SCENE / 2), "-i", str(clip), "-frames:v", "1", str(picture))
        Camera.scenes.append(picture.read_bytes())
    certificate, key = folder / "camera.pem", folder / "camera.key"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate))
    Gst.init(None)
    web, secure_web = serve(folder), serve(folder, certificate)
    servers = [rtsp(clip), rtsp(clip, certificate, key)]
    srt, udp = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    keep_running(*again, "-f", "mpegts", f"srt://127.0.0.1:{srt}?mode=listener")
    keep_running(*again, "-f", "mpegts", f"udp://127.0.0.1:{udp}?pkt_size=1316")
    token = secrets.token_hex(16)
    (folder / "push.token").write_text(token)
    threading.Thread(target=push, args=(push_port, "push", token), daemon=True).start()

    tls = {"tls": {"ca": "camera.pem"}}
    streams = {
        "rtsp": {"url": servers[0][1]},
        "rtsps": {"url": servers[1][1], **tls},
        "http-mjpeg": {"url": f"{web}/pictures"},
        "https-mjpeg": {"url": f"{secure_web}/pictures", **tls},
        "http-mp4": {"url": f"{web}/clip.mp4"},
        "hls": {"url": f"{web}/hls.m3u8"},
        "stills": {"url": f"{web}/still.jpg"},
        "rtmp": {"url": rtmp.serve((folder / "clip.flv").read_bytes())},
        "srt": {"url": f"srt://127.0.0.1:{srt}"},
        "udp": {"url": f"udp://127.0.0.1:{udp}"},
        "file-mp4": {"url": "file://clip.mp4", "loop": True},
        "file-mkv": {"url": "file://clip.mkv", "loop": True},
        "push": {"url": "push://push", "push": {"token": {"file": "push.token"}, "hold": "5s"}},
    }
    for file in folder.iterdir():
        file.chmod(0o644)
    # JSON is YAML.
    (folder / "streams.yaml").write_text(json.dumps({"streams": [{"id": name, **keys} for name, keys in streams.items()]}, indent=1))
    (folder / "streams.yaml").chmod(0o644)
    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGTERM, loop.quit)
    threading.Thread(target=lambda: (sys.stdin.read(), GLib.idle_add(loop.quit)), daemon=True).start()
    print("ready", *streams, flush=True)
    loop.run()
    STOPPED.set()
    for child in list(CHILDREN):
        child.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
