"""What the scripts of this folder share: a place without a network, the daemon, a listener at a broker, and a line for each thing that is checked.

Everything runs in namespaces of its own: there is only the loopback interface, so nothing here can ask anybody outside, and ports are free; and
no process outlives the script, however it ends. Root is needed for it.
"""

import atexit
import ctypes
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = pathlib.Path(os.environ.get("FOREIGN") or ROOT / ".setup/foreign").resolve()
VTAGD = pathlib.Path(os.environ.get("VTAGD") or ROOT / "target/release/vtagd").resolve()
CAT = ROOT / "tests/data/preprocess/chelsea.png"
ROCKET = ROOT / "tests/data/preprocess/rocket.jpg"
# How long anything may take on a slow machine. What is waited for comes much sooner.
PATIENCE = 60


def alone():
    """Goes on in namespaces of our own: nothing but the loopback interface, and no process outlives us."""
    new_mounts, new_processes, new_network, everywhere_private = 0x00020000, 0x20000000, 0x40000000, 0x4000 | 0x40000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_mounts | new_processes | new_network) or libc.mount(b"none", b"/", None, everywhere_private, None):
        sys.exit(f"cannot have a network of its own ({os.strerror(ctypes.get_errno())}): run it as root")
    child = os.fork()
    if child:
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(how, lambda how, _: os.kill(child, how))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    die_with_parent, kill = 1, signal.SIGKILL
    libc.prctl(die_with_parent, kill)
    for how in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, lambda *_: sys.exit(143))
    if libc.mount(b"proc", b"/proc", b"proc", 0, None):
        sys.exit("cannot have a /proc of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        set_flags, up = 0x8914, 1
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", up))


def bind(what, where):
    """Shows a folder at another place, in our namespace alone."""
    subprocess.run(["mount", "--rbind", str(what), str(where)], check=True)
    atexit.register(subprocess.run, ["umount", "--lazy", str(where)])


class Report:
    """A line for each thing that is checked, and whether all of them held."""

    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], 0
        self.subject = ""

    def _line(self, word, what, more):
        print(f"{word} {self.subject}: {what}{f'  ({more})' if more else ''}", flush=True)

    def check(self, held, what, more=""):
        if held:
            self.passed += 1
            self._line("PASS", what, "")
        else:
            self.failed.append(f"{self.subject}: {what}")
            self._line("FAIL", what, more)
        return held

    def skip(self, what, why):
        self.skipped += 1
        self._line("SKIP", what, why)

    def end(self):
        """The last line, and the exit code."""
        print(f"\n{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped")
        for line in self.failed:
            print(f"  failed: {line}")
        return 1 if self.failed else 0


def wait(probe, seconds=PATIENCE):
    """What `probe` gives, as soon as that is something; else what it gave last."""
    until = time.monotonic() + seconds
    while True:
        found = probe()
        if found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A process that ends with us."""

    def __init__(self, arguments, log, **more):
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as out:
            self.child = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more
            )
        atexit.register(self.stop, signal.SIGKILL)

    def stop(self, how=signal.SIGTERM):
        """The exit code; what does not end in time is killed."""
        if self.child.poll() is None:
            self.child.send_signal(how)
            try:
                self.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()


class Daemon:
    """vtagd, in a folder of its own, with streams that look at what is sent to them."""

    def __init__(self, folder, port, sink, labels=("cat", "rocket"), streams=("gate",), **more):
        self.folder, self.port = pathlib.Path(folder), port
        self.folder.mkdir(parents=True, exist_ok=True)
        self.labels, self.streams, self.sink, self.more = list(labels), list(streams), sink, more
        self.program = None

    # What labels look for, by name.
    PROMPTS = {"cat": "a cat", "猫": "a cat", "kitten": "a cat", "rocket": "a rocket", "鳥": "a bird"}

    def write(self):
        # JSON is YAML.
        labels = [{"name": n, "prompts": [self.PROMPTS[n]], "attributes": {"severity": "warning"}} for n in self.labels]
        # Each label against the background alone, so that two may mean the same.
        (self.folder / "things.yaml").write_text(
            json.dumps({"set": "things", "scoring": "independent", "background": ["a wall", "an empty room"], "labels": labels})
        )
        config = {
            "model": {"path": "starter"},
            "runtime": {"threads": 1},
            "sampling": {"interval": "500ms"},
            "streams": [{"id": s, "url": f"push://{s}", "push": {"hold": "1s"}} for s in self.streams],
            "labels": ["things.yaml"],
            "events": {"enter": 0.6, "exit": 0.4, "after": "0s", "after_exit": "0s", "cooldown": "0s"},
            "outbox": {"path": "outbox.db"},
            "snapshots": {"path": "pictures", "max_side": 640},
            "state": {"path": "state"},
            "api": {"listen": f"127.0.0.1:{self.port}"},
            "sinks": [{"type": "jsonl", "path": "events.jsonl"}, {"type": "mqtt", "name": "broker", **self.sink}],
            **self.more,
        }
        (self.folder / "vtagd.yaml").write_text(json.dumps(config, ensure_ascii=False))

    def command(self, *arguments):
        return [VTAGD, *arguments, "-c", self.folder / "vtagd.yaml"]

    def start(self):
        self.write()
        environment = {**os.environ, "VTAGD_CACHE": str(PLACE / "cache"), "STATE_DIRECTORY": str(self.folder / "state")}
        self.program = Program(self.command("run"), self.folder / "log", cwd=ROOT, env=environment)
        if not wait(lambda: self.ask("/readyz") or self.program.child.poll() is not None) or self.program.child.poll() is not None:
            sys.exit(f"vtagd does not get ready: {self.said()[-2000:]}")
        return self

    def stop(self, how=signal.SIGTERM):
        return self.program.stop(how)

    def reload(self):
        """SIGHUP, with what has been changed here; waits until it is in force."""
        self.write()
        self.program.child.send_signal(signal.SIGHUP)
        wait(lambda: self.watched() == (sorted(self.streams), sorted(self.labels)))

    def watched(self):
        """Streams and labels that are in force."""
        streams = json.loads(self.ask("/api/v1/streams") or b"{}").get("streams", [])
        sets = json.loads(self.ask("/api/v1/labels") or b"{}").get("sets", [])
        return sorted(s["id"] for s in streams), sorted(detail["label"] for s in sets for detail in s["details"])

    def said(self):
        return (self.folder / "log").read_text(errors="replace")

    def ask(self, path, body=None, kind=None):
        """What the API answers; `None` where it does not."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind} if kind else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            return None

    def see(self, picture, stream="gate"):
        """Shows it a picture, and waits until that has been looked at."""
        kind = "image/png" if picture.suffix == ".png" else "image/jpeg"
        return wait(lambda: self.ask(f"/api/v1/streams/{stream}/frames?wait=1", picture.read_bytes(), kind))

    def tag(self, picture, stream="gate"):
        """A whole tag: it sees a picture, and then nothing. The events of it."""
        before = len(self.events())
        self.see(picture, stream)
        wait(lambda: [e["type"].rsplit(".")[-1] for e in self.events()[before:]][-1:] == ["end"])
        return self.events()[before:]

    def events(self):
        """Those that the file got."""
        file = self.folder / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def waiting(self):
        """How many events the broker has not acknowledged yet."""
        sinks = json.loads(self.ask("/api/v1/sinks") or b"{}").get("sinks", [])
        return next((sink["pending"] for sink in sinks if sink["name"] == "broker"), None)


class Listener:
    """A client that keeps what it hears: messages as (topic, payload, whether it lay there, properties)."""

    def __init__(self, port, filters, user=None, version=mqtt.MQTTv311):
        self.heard, self.lock = [], threading.Lock()
        self.answered = threading.Event()
        self.client = mqtt.Client(client_id=f"listener-{id(self):x}-{time.time_ns()}", protocol=version)
        if user:
            self.client.username_pw_set(*user)
        self.client.on_connect = lambda client, *_: client.subscribe([(f, 1) for f in filters])
        self.client.on_subscribe = lambda *_: self.answered.set()
        self.client.on_message = self._message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, keepalive=20)
        self.client.loop_start()
        self.answered.wait(PATIENCE)

    def _message(self, _client, _data, message):
        with self.lock:
            self.heard.append((message.topic, message.payload, message.retain, getattr(message, "properties", None)))

    def all(self, topic=None):
        with self.lock:
            return [m for m in self.heard if topic in (None, m[0])]

    def last(self, topic):
        heard = self.all(topic)
        return heard[-1][1] if heard else None

    def publish(self, topic, payload):
        def published():
            try:
                self.client.publish(topic, payload, 1).wait_for_publish(PATIENCE)
                return True
            except RuntimeError:
                # It connects again by itself.
                return False

        wait(published)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def work_folder(name):
    """A folder that goes with us, unless KEEP is set."""
    if os.environ.get("KEEP"):
        return pathlib.Path(tempfile.mkdtemp(prefix=f"vtagd-{name}-"))
    folder = tempfile.TemporaryDirectory(prefix=f"vtagd-{name}-")
    atexit.register(folder.cleanup)
    return pathlib.Path(folder.name)
