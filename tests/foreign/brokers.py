#!/usr/bin/python3
"""vtagd at brokers that others wrote: mosquitto, RabbitMQ, aedes and amqtt. A line PASS, FAIL or SKIP for each thing, see `docs/events.md` for what is
expected. Called by `make test-brokers`; `setup.sh brokers` has fetched what is not Debian 12's. Names of brokers as arguments: those alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import paho.mqtt.client as mqtt
import yaml

from common import CAT, PLACE, ROCKET, ROOT, Daemon, Listener, Program, Report, alone, bind, listens, wait, work_folder

USER, PASSWORD = "edge", "secret"
PREFIX = "vtagd"
VERSIONS = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}
# A picture of a tag has some tens of kilobytes.
SMALL = 20_000


class Broker:
    """One that can be started, and started again. What it can do stands in the class."""

    name = ""
    versions = ("3.1.1", "5")
    # It shows retained messages to who asks with wildcards; can be told the largest packet; asks who comes; throws out a client when another comes
    # under its name.
    wildcards, limits, login, takes_over = True, True, True, True
    port = 1883

    def __init__(self, folder):
        self.folder, self.program, self.largest = folder, None, None
        folder.mkdir(parents=True, exist_ok=True)

    def missing(self):
        """Why it cannot be had."""

    def start(self, largest=None):
        self.largest = largest
        self.program = self.run()
        if not wait(lambda: listens(self.port) or self.program.child.poll() is not None, 120) or self.program.child.poll() is not None:
            sys.exit(f"{self.name} does not start: {self.program.log.read_text(errors='replace')[-2000:]}")
        return self

    def stop(self):
        self.program.stop()


class Mosquitto(Broker):
    name = "mosquitto"

    def missing(self):
        return None if shutil.which("mosquitto") else "the package mosquitto is not installed"

    def run(self):
        passwords = self.folder / "passwords"
        passwords.write_text(f"{USER}:{PASSWORD}\n")
        passwords.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        limit = f"max_packet_size {self.largest}\n" if self.largest else ""
        (self.folder / "conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\npersistence true\n"
            f"persistence_location {self.folder}/\nmax_queued_messages 0\n{limit}"
        )
        return Program(["mosquitto", "-c", self.folder / "conf"], self.folder / "log")


class RabbitMq(Broker):
    name = "rabbitmq"
    wildcards = False
    root = PLACE / "root"

    def missing(self):
        return None if (self.root / "usr/lib/rabbitmq/bin/rabbitmq-server").exists() else "it is not in the root: run make test-brokers"

    def run(self):
        inside = self.root / "mnt"
        if not os.path.ismount(inside):
            for what, where in ((self.folder, inside), ("/proc", self.root / "proc"), ("/dev", self.root / "dev")):
                bind(what, where)
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/mnt"}
            # Else the server starts one that stays.
            Program(["chroot", self.root, "epmd"], self.folder / "epmd.log", env=environment)
        limit = f"mqtt.max_packet_size_authenticated = {self.largest}\n" if self.largest else ""
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:5672\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\ndefault_user = {USER}\ndefault_pass = {PASSWORD}\n"
            f"loopback_users = none\nlog.console = true\nlog.file = false\n{limit}"
        )
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/mnt",
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_CONFIG_FILE": "/mnt/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "/mnt/plugins",
            "RABBITMQ_MNESIA_BASE": "/mnt/data",
            "RABBITMQ_LOG_BASE": "/mnt/logs",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }
        return Program(["chroot", self.root, "/usr/lib/rabbitmq/bin/rabbitmq-server"], self.folder / "log", env=environment)


class Aedes(Broker):
    name = "aedes"
    versions = ("3.1.1",)
    limits = False
    modules = PLACE / "node/node_modules"

    def missing(self):
        if not shutil.which("node"):
            return "node is not installed"
        return None if (self.modules / "aedes").is_dir() else "it is not there: run make test-brokers"

    def run(self):
        return Program(["node", ROOT / "tests/foreign/aedes.mjs", self.modules, self.port], self.folder / "log")


class Amqtt(Broker):
    name = "amqtt"
    versions = ("3.1.1",)
    limits, login, takes_over = False, False, False
    binary = PLACE / "python/bin/amqtt"

    def missing(self):
        return None if Amqtt.binary.exists() else "it is not there: run make test-brokers"

    def run(self):
        (self.folder / "conf.yaml").write_text(
            yaml.safe_dump(
                {
                    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}", "max_connections": 20}},
                    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
                }
            )
        )
        return Program([Amqtt.binary, "-c", self.folder / "conf.yaml"], self.folder / "log")


class Checks:
    """Everything that is looked at, at one broker and in one version of MQTT."""

    def __init__(self, report, broker, version, folder):
        self.report, self.broker, self.version, self.folder = report, broker, version, folder
        report.subject = f"{broker.name} {version}"
        self.box = Daemon(folder / "box", 8642, self.sink(version), instance="edge-1")

    def sink(self, version, **more):
        (self.folder / "password").write_text(PASSWORD)
        login = {"username": USER, "password": {"file": str(self.folder / "password")}} if self.broker.login else {}
        return {
            "url": f"mqtt://127.0.0.1:{self.broker.port}", "protocol": int(version) if version == "5" else version, "topic_prefix": PREFIX,
            "home_assistant": True, "timeout": "10s", **login, **more,
        }

    def listen(self, *filters):
        user = (USER, PASSWORD) if self.broker.login else None
        return Listener(self.broker.port, filters, user, VERSIONS[self.version])

    def own(self):
        """Every retained topic of the box, by its whole name."""
        labels = [f"{PREFIX}/gate/{label}{end}" for label in ("cat", "rocket") for end in ("", "/attributes", "/snapshot")]
        boxes = [f"homeassistant/device/{PREFIX}{name}/config" for name in ("_gate", "-box")]
        return [f"{PREFIX}/owner", f"{PREFIX}/available", f"{PREFIX}/gate/status", f"{PREFIX}/gate/enabled/state", *labels, *boxes]

    def retained(self, *filters):
        """What lies there for a newcomer."""
        who = self.listen(*(filters or self.own()), "test/mark")
        wait(lambda: not who.publish("test/mark", "x") and who.last("test/mark"), 10)
        lies = {topic: payload for topic, payload, lay_there, _ in who.all() if lay_there and payload}
        who.close()
        return lies

    def run(self):
        self.broker.start()
        self.listener = self.listen(f"{PREFIX}/#", "homeassistant/#")
        self.box.start()
        self.connects()
        self.late_subscriber()
        self.commands()
        self.label_goes()
        self.vanishes()
        self.broker_restarts()
        self.stops()
        self.taken_over()
        self.listener.close()
        self.broker.stop()
        self.oversize()

    def settled(self):
        """It has seen what lies at the broker, and published what it wants there."""
        document = f"homeassistant/device/{PREFIX}_gate/config"
        return wait(lambda: self.listener.last(f"{PREFIX}/gate/status") == b"online" and self.listener.last(document))

    def ids(self):
        return [json.loads(payload)["id"] for _, payload, _, _ in self.listener.all(f"{PREFIX}/events")]

    def connects(self):
        topic = f"{PREFIX}/available"
        wait(lambda: self.listener.last(topic) == b"online")
        self.report.check(self.listener.last(topic) == b"online" and self.settled(), "connects and says that it is there", self.box.said()[-400:])
        self.box.tag(CAT)
        states = lambda: [p for _, p, _, _ in self.listener.all(f"{PREFIX}/gate/cat")]
        wait(lambda: states()[-2:] == [b"ON", b"OFF"])
        self.report.check(states()[-2:] == [b"ON", b"OFF"], "a tag goes on and off", states())
        self.report.check(wait(lambda: self.box.waiting() == 0), "every event is acknowledged", self.box.waiting())
        stored = [event["id"] for event in self.box.events()]
        wait(lambda: self.ids() == stored)
        self.report.check(stored and self.ids() == stored, "events come once, in order", (stored, self.ids()))
        if self.version == "5":
            types = {getattr(properties, "ContentType", None) for _, _, _, properties in self.listener.all(f"{PREFIX}/events")}
            self.report.check(types == {"application/cloudevents+json"}, "their content type is told", types)
        else:
            self.report.skip("their content type is told", "MQTT 5 alone")
        picture = self.listener.last(f"{PREFIX}/gate/cat/snapshot") or b""
        self.report.check(picture[:2] == b"\xff\xd8", "its picture comes", len(picture))
        document = json.loads(self.listener.last(f"homeassistant/device/{PREFIX}_gate/config") or b"{}")
        self.report.check("label_cat" in document.get("cmps", {}), "the stream is announced to Home Assistant", list(document))

    def late_subscriber(self):
        self.box.tag(ROCKET)
        wait(lambda: self.listener.last(f"{PREFIX}/gate/rocket/snapshot"))
        lies = self.retained()
        missing = sorted(set(self.own()) - set(lies))
        self.report.check(not missing, "a newcomer finds every state, by its topic", missing)
        if self.broker.wildcards:
            lies = self.retained(f"{PREFIX}/#", "homeassistant/#")
            missing = sorted(set(self.own()) - set(lies))
            self.report.check(not missing, "and by a wildcard", missing)
        else:
            self.report.skip("and by a wildcard", "it shows what is retained to who asks by the whole name alone")

    def commands(self):
        for said in ("OFF", "ON"):
            self.listener.publish(f"{PREFIX}/gate/enabled/set", said)
            state = f"{PREFIX}/gate/enabled/state"
            done = wait(lambda: self.listener.last(state) == said.encode())
            self.report.check(done, f"{said} switches the stream", self.listener.last(state))

    def label_goes(self):
        self.box.labels = ["cat"]
        self.box.reload()
        gone = [topic for topic in self.own() if "rocket" in topic]
        # amqtt sends more than was asked for.
        wait(lambda: not set(self.retained(*gone)) & set(gone), 30)
        left = set(self.retained(*gone)) & set(gone)
        self.report.check(not left, "a label that is removed leaves nothing behind", sorted(left))
        documents = [json.loads(p)["cmps"] for _, p, _, _ in self.listener.all(f"homeassistant/device/{PREFIX}_gate/config") if p]
        parted = any(cmps.get("label_rocket") == {"p": "binary_sensor"} for cmps in documents)
        self.report.check(parted and "label_rocket" not in documents[-1], "Home Assistant is told so first", documents[-1].keys())
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        back = wait(lambda: set(self.own()) - {f"{PREFIX}/gate/rocket/snapshot"} <= set(self.retained()), 30)
        self.report.check(back, "and comes back", sorted(set(self.own()) - set(self.retained())))

    def vanishes(self):
        self.box.stop(signal.SIGKILL)
        said = wait(lambda: self.listener.last(f"{PREFIX}/available") == b"offline")
        self.report.check(said, "killed: the broker says so", self.listener.last(f"{PREFIX}/available"))
        before = len(self.listener.all())
        self.box.start()
        self.report.check(wait(lambda: self.listener.last(f"{PREFIX}/available") == b"online"), "started again: it is there")
        # Long enough for it to have looked at what lies there.
        time.sleep(8)
        heard = {topic for topic, _, _, _ in self.listener.all()[before:]}
        again = heard & set(self.own()) - {f"{PREFIX}/available", f"{PREFIX}/gate/status"}
        if self.broker.wildcards:
            self.report.check(not again, "and tells nothing that lies there already", sorted(again))
        else:
            again = [topic for topic in again if topic.startswith("homeassistant/")]
            self.report.check(not again, "and announces nothing that is announced already", again)

    def broker_restarts(self):
        self.broker.stop()
        time.sleep(1)
        for picture in (CAT, ROCKET, CAT):
            self.box.tag(picture)
        # Who listens is there before the daemon is: so it misses nothing.
        self.box.program.child.send_signal(signal.SIGSTOP)
        self.listener.answered.clear()
        self.broker.start()
        self.listener.answered.wait(60)
        self.box.program.child.send_signal(signal.SIGCONT)
        stored = [event["id"] for event in self.box.events()]
        wait(lambda: set(self.ids()) >= set(stored))
        self.report.check(set(self.ids()) >= set(stored), "the broker starts again: no event is lost", sorted(set(stored) - set(self.ids())))
        self.report.check(wait(lambda: self.box.waiting() == 0), "and none waits", self.box.waiting())
        # Pictures that were made meanwhile are not sent later.
        wanted = set(self.own()) - ({f"{PREFIX}/gate/{label}/snapshot" for label in ("cat", "rocket")})
        wait(lambda: wanted <= set(self.retained()))
        self.report.check(wanted <= set(self.retained()), "and every state is there again", sorted(wanted - set(self.retained())))

    def stops(self):
        self.box.stop()
        self.report.check(wait(lambda: self.listener.last(f"{PREFIX}/available") == b"stopped"), "a clean end is told")
        errors = [line for line in self.box.said().splitlines() if " ERROR " in line]
        self.report.check(not errors, "no error in the log", errors[:3])

    def taken_over(self):
        what = "another client with its client id is named as such"
        if not self.broker.takes_over:
            self.report.skip(what, "it lets both stay")
            return
        box = Daemon(self.folder / "twin", 8642, self.sink(self.version, client_id="the-same"), instance="edge-1")
        box.sink["topic_prefix"] = f"{PREFIX}-twin"
        box.start()
        available = self.listen(f"{PREFIX}-twin/available")
        wait(lambda: available.last(f"{PREFIX}-twin/available") == b"online")
        other = mqtt.Client("the-same", protocol=VERSIONS[self.version])
        if self.broker.login:
            other.username_pw_set(USER, PASSWORD)
        other.connect("127.0.0.1", self.broker.port)
        other.loop_start()
        told = wait(lambda: "client id" in box.said(), 30)
        self.report.check(told, what, box.said()[-400:])
        other.disconnect()
        other.loop_stop()
        box.stop()
        available.close()

    def oversize(self):
        """A picture that the broker does not take costs no event."""
        what = "a picture that is too large is left out"
        if not self.broker.limits:
            self.report.skip(what, "it knows no limit")
            return
        self.broker.start(largest=SMALL)
        listener = self.listen(f"{PREFIX}-large/#")
        box = Daemon(self.folder / "large", 8642, {**self.sink(self.version), "topic_prefix": f"{PREFIX}-large"}, snapshots={"path": "pictures"})
        box.start()
        wait(lambda: listener.last(f"{PREFIX}-large/gate/status") == b"online")
        for _ in range(3):
            box.tag(CAT)
            wait(lambda: box.waiting() == 0)
        stored = [event["id"] for event in box.events()]
        heard = lambda: {json.loads(p)["id"] for _, p, _, _ in listener.all(f"{PREFIX}-large/events")}
        wait(lambda: heard() >= set(stored) and box.waiting() == 0)
        self.report.check(heard() >= set(stored), f"{what}, no event is", sorted(set(stored) - heard()))
        metrics = (box.ask("/metrics") or b"").decode()
        counted = [line for line in metrics.splitlines() if line.startswith("vtagd_mqtt_pictures_skipped_total")]
        self.report.check(counted and not counted[0].endswith(" 0"), f"{what}: it is counted", counted)
        self.report.check("snapshots.max_side" in box.said(), f"{what}: the log says what helps")
        lost = box.said().count("connection was lost over a picture")
        self.report.check(lost <= (0 if self.version == "5" else 1), f"{what}: the connection is lost at most once", lost)
        box.stop()
        listener.close()
        self.broker.stop()


def only_older(report, broker, folder):
    """MQTT 5 with a broker that does not know it."""
    report.subject = f"{broker.name} 5"
    broker.start()
    checks = Checks(report, broker, "5", folder)
    checks.box.start()
    report.check(wait(lambda: "write `protocol: 3.1.1`" in checks.box.said()), "a broker of 3.1.1 alone is named as such", checks.box.said()[-400:])
    checks.box.stop()
    broker.stop()


def dots(report, broker, folder):
    """RabbitMQ makes slashes of them."""
    report.subject = broker.name
    box = Daemon(folder / "dots", 8642, {"url": "mqtt://127.0.0.1:1883", "topic_prefix": "site.vtagd"})
    box.write()
    said = subprocess.run([str(a) for a in box.command("check")], cwd=ROOT, capture_output=True, text=True)
    report.check(said.returncode == 0 and "RabbitMQ makes `/` of it" in said.stdout + said.stderr, "a prefix with a dot is warned about", said)


def main():
    brokers = {b.name: b for b in (Mosquitto, RabbitMq, Aedes, Amqtt)}
    wanted = sys.argv[1:] or list(brokers)
    if not set(wanted) <= set(brokers):
        sys.exit(f"brokers are: {' '.join(brokers)}")
    alone()
    report = Report()
    folder = work_folder("brokers")
    for name in wanted:
        broker = brokers[name](folder / name)
        report.subject = name
        if missing := broker.missing():
            report.skip("everything", missing)
            continue
        for version in broker.versions:
            place = folder / f"{name}-{version}"
            place.mkdir()
            broker = brokers[name](place / "broker")
            Checks(report, broker, version, place).run()
        if "5" not in broker.versions:
            place = folder / f"{name}-older"
            place.mkdir()
            only_older(report, brokers[name](place / "broker"), place)
        if name == "rabbitmq":
            dots(report, broker, folder)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
