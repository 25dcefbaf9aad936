#!/usr/bin/python3
"""A real Home Assistant and a real daemon at one mosquitto: what a person would see there, as PASS and FAIL. Called by `make test-home-assistant`.

`setup.sh home-assistant` has made the root that Home Assistant lies in. Names of scenarios as arguments: those alone, after `appears`.
"""

import json
import shutil
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from common import CAT, PATIENCE, PLACE, ROOT, Daemon, Listener, Program, Report, alone, bind, listens, wait, work_folder

INSIDE = PLACE / "root"
URL = "http://127.0.0.1:8123"
BROKER = 1883


class HomeAssistant:
    """It, and its REST API as its user interface has it."""

    def __init__(self, folder, automations):
        self.folder, self.program = folder, None
        folder.mkdir()
        (folder / "configuration.yaml").write_text(
            "homeassistant: { name: Test, time_zone: UTC, latitude: 0, longitude: 0, elevation: 0, unit_system: metric }\n"
            "frontend:\nrecorder:\nnotify:\nautomation: !include automations.yaml\n"
        )
        (folder / "automations.yaml").write_text(yaml.safe_dump(automations, allow_unicode=True))
        (INSIDE / "config").mkdir(exist_ok=True)
        for what, where in ((folder, "config"), ("/proc", "proc"), ("/dev", "dev")):
            bind(what, INSIDE / where)
        self.access, self.refresh = None, None

    def start(self):
        environment = {"PATH": "/opt/ha/bin:/usr/bin:/bin:/usr/sbin", "HOME": "/root", "LANG": "C.UTF-8"}
        self.program = Program(["chroot", INSIDE, "/opt/ha/bin/hass", "--skip-pip", "-c", "/config"], self.folder / "out", env=environment)
        ended = lambda: self.program.child.poll() is not None
        if not wait(lambda: ended() or self.ask("GET", "/api/onboarding") is not None, 5 * PATIENCE) or ended():
            sys.exit(f"Home Assistant does not start: {self.said()[-3000:]}")
        if self.refresh:
            self.log_in()
            wait(lambda: (self.ask("GET", "/api/config") or {}).get("state") == "RUNNING", 5 * PATIENCE)

    def said(self):
        return (self.folder / "out").read_text(errors="replace")

    def ask(self, how, path, body=None, form=False, raw=False):
        data = None
        headers = {"Authorization": f"Bearer {self.access}"} if self.access else {}
        if body is not None:
            data = (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
        try:
            with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers, method=how), timeout=60) as answer:
                given = answer.read()
        except urllib.error.HTTPError as error:
            given = error.read()
        except OSError:
            return None
        if raw:
            return given
        try:
            return json.loads(given)
        except ValueError:
            return given.decode(errors="replace")

    def first_steps(self):
        """What a person does once: a user, and the MQTT integration."""
        me = {"client_id": URL + "/"}
        user = {"name": "T", "username": "t", "password": "a password", "language": "en"}
        code = self.ask("POST", "/api/onboarding/users", {**me, **user})["auth_code"]
        given = self.ask("POST", "/auth/token", {**me, "grant_type": "authorization_code", "code": code}, form=True)
        self.access, self.refresh = given["access_token"], given["refresh_token"]
        for step, body in (("core_config", {}), ("analytics", {}), ("integration", {**me, "redirect_uri": URL + "/"})):
            self.ask("POST", f"/api/onboarding/{step}", body)
        flow = self.ask("POST", "/api/config/config_entries/flow", {"handler": "mqtt", "show_advanced_options": True})
        more = {"set_client_cert": False, "set_ca_cert": "off", "transport": "tcp"}
        broker = {"broker": "127.0.0.1", "port": BROKER, "protocol": "5", "other_settings": more}
        flow = self.ask("POST", f"/api/config/config_entries/flow/{flow['flow_id']}", broker)
        if not isinstance(flow, dict) or flow.get("type") != "create_entry":
            sys.exit(f"the MQTT integration is refused: {flow}")

    def log_in(self):
        me = {"client_id": URL + "/", "grant_type": "refresh_token", "refresh_token": self.refresh}
        self.access = None
        self.access = self.ask("POST", "/auth/token", me, form=True)["access_token"]

    def states(self):
        """All entities of the MQTT integration, by id."""
        all_of_it = self.ask("GET", "/api/states")
        ours = self.think("{{ integration_entities('mqtt') | to_json }}")
        return {s["entity_id"]: s for s in all_of_it or [] if s["entity_id"] in (ours or [])} if isinstance(all_of_it, list) else {}

    def state(self, entity):
        return (self.states().get(entity) or {}).get("state")

    def away(self):
        return sorted(entity for entity, state in self.states().items() if state["state"] == "unavailable")

    def think(self, template):
        """What Home Assistant makes of a template."""
        return self.ask("POST", "/api/template", {"template": template})

    def device(self, entity):
        keys = ("name", "manufacturer", "model", "sw_version", "configuration_url", "via_device_id", "id")
        return {k: self.think(f"{{{{ device_attr('{entity}', '{k}') }}}}") for k in keys}

    def call(self, domain, service, **data):
        return self.ask("POST", f"/api/services/{domain}/{service}", data)


def shipped_automation():
    """The example, for this camera; and it tells the broker what it has found when it fired."""
    text = (ROOT / "examples/consumers/home-assistant.yaml").read_text()
    text = text.replace("dock_3_forklift_dock_safety", "gate_cat_things").replace("dock_3_forklift", "gate_cat")
    automation = yaml.safe_load(text)
    automation["id"] = "shipped"
    for action in automation["actions"]:
        if action["action"] == "notify.notify":
            action["action"] = "notify.persistent_notification"
    found = (
        "{{ {'tag': state_attr('binary_sensor.gate_cat', 'tag_id'), 'score': state_attr('binary_sensor.gate_cat', 'score'),"
        " 'picture': states('image.gate_cat_things')} | to_json }}"
    )
    automation["actions"].append({"action": "mqtt.publish", "data": {"topic": "test/fired", "payload": found}})
    return automation


class Scenarios:
    def __init__(self):
        self.report = Report()
        self.folder = work_folder("home-assistant")
        self.write_broker()
        self.start_broker()
        self.listener = Listener(BROKER, ["#"])
        self.home = HomeAssistant(self.folder / "home", [shipped_automation()])
        self.home.start()
        self.home.first_steps()
        self.box = Daemon(
            self.folder / "edge-1", 8642, self.sink("vtagd"), instance="edge-1",
            snapshots={"path": "pictures", "max_side": 640, "url": "http://edge-1.example"},
        )

    @staticmethod
    def sink(prefix):
        return {"url": f"mqtt://127.0.0.1:{BROKER}", "protocol": 5, "topic_prefix": prefix, "home_assistant": True, "home_assistant_scores": True}

    def write_broker(self):
        self.kept = self.folder / "broker"
        self.kept.mkdir()
        text = f"listener {BROKER} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {self.kept}/\n"
        (self.folder / "mosquitto.conf").write_text(text)

    def start_broker(self):
        self.broker = Program(["mosquitto", "-c", self.folder / "mosquitto.conf"], self.folder / "mosquitto.log")
        wait(lambda: listens(BROKER))

    # What is expected of a box with one stream `gate` and its labels.
    def entities(self, labels):
        each = [f"{p}.gate_{n}{e}" for n in labels for p, e in (("binary_sensor", ""), ("image", "_things"), ("sensor", "_score"))]
        return sorted(each + ["event.gate_tag", "switch.gate_watched"])

    def gate(self):
        return sorted(e for e in self.home.states() if e.split(".")[1].startswith("gate_"))

    def shows(self, labels, what):
        wanted = self.entities(labels)
        wait(lambda: self.gate() == wanted)
        found = self.gate()
        return self.report.check(found == wanted, what, f"too many {sorted(set(found) - set(wanted))}, missing {sorted(set(wanted) - set(found))}")

    def available(self, what):
        wait(lambda: self.home.states() and not self.home.away())
        return self.report.check(not self.home.away(), what, self.home.away())

    def states_known(self, what):
        def unknown():
            return [e for e, s in self.home.states().items() if e.startswith(("binary_sensor", "switch")) and s["state"] in ("unknown", "unavailable")]

        wait(lambda: self.home.states() and not unknown())
        return self.report.check(not unknown(), what, unknown())

    def is_on(self, entity, state, what):
        wait(lambda: self.home.state(entity) == state)
        return self.report.check(self.home.state(entity) == state, what, self.home.state(entity))

    # The scenarios.

    def appears(self):
        """Discovery makes a device of the box and one of its stream, with all that belongs to them."""
        self.box.start()
        self.shows(("cat", "rocket"), "the stream has a sensor, a number and a picture for each label, an event entity and a switch")
        self.available("all of it is available")
        camera, box = self.home.device("binary_sensor.gate_cat"), self.home.device("binary_sensor.vtagd_edge_1_up")
        self.report.check((camera["name"], camera["model"]) == ("gate", "camera stream"), "the device has the stream's name", camera)
        self.report.check(box["name"] == "vtagd edge-1" and box["sw_version"] != "None", "the box is a device, with its version", box)
        self.report.check(camera["via_device_id"] == box["id"], "the stream's device is reached through the box", camera)
        self.report.check(str(box["configuration_url"]).startswith("http://edge-1.example"), "the box links to its page", box)

    def health(self):
        """The box tells how it is."""
        self.is_on("binary_sensor.vtagd_edge_1_up", "on", "the box is up")
        # Told with the device, not a minute later.
        soon = wait(lambda: self.home.state("sensor.vtagd_edge_1_provider") == "cpu", 25)
        self.report.check(soon, "what computes is told soon", self.home.state("sensor.vtagd_edge_1_provider"))
        for name in ("events_waiting_for_sinks", "frames_dropped"):
            state = wait(lambda: str(self.home.state(f"sensor.vtagd_edge_1_{name}")).isdigit()) and "a number"
            self.report.check(state, f"{name} is a number", self.home.state(f"sensor.vtagd_edge_1_{name}"))

    def fires(self):
        """Whoever acts when the state changes finds attributes and picture of the same tag."""
        for turn in range(1, 6):
            fired = len(self.listener.all("test/fired"))
            # A new picture, and one that is looked at when nothing is there.
            wait(lambda: self.home.state("binary_sensor.gate_cat") == "off")
            before = self.home.state("image.gate_cat_things")
            self.box.see(CAT)
            wait(lambda: len(self.listener.all("test/fired")) > fired)
            told = json.loads(self.listener.last("test/fired") or b"{}") if len(self.listener.all("test/fired")) > fired else {}
            tag = next((e["data"]["tag_id"] for e in reversed(self.box.events()) if e["data"]["label"] == "cat"), None)
            self.report.check(told.get("tag") == tag, f"tag {turn}: the automation fires with this tag's attributes", f"{told} instead of {tag}")
            self.report.check(told.get("picture") not in (None, "unknown", before), f"tag {turn}: and finds its picture", told)
            shown = self.home.states()["image.gate_cat_things"]["attributes"]["entity_picture"]
            picture = self.home.ask("GET", shown, raw=True)
            kept = self.box.ask(f"/api/v1/snapshots/{tag}-start.jpg")
            self.report.check(picture == kept and kept[:2] == b"\xff\xd8", f"tag {turn}: the image entity shows what the box keeps", len(picture))
            self.is_on("binary_sensor.gate_cat", "off", f"tag {turn}: the state goes off")
        self.report.check("Error while executing automation" not in self.home.said(), "no step of the automation fails")

    def event_entity(self):
        self.box.see(CAT)
        wait(lambda: self.about_event().get("event_type") == "start")
        about = self.about_event()
        right = (about.get("event_type"), about.get("label")) == ("start", "cat") and about.get("score", 0) > 0.6
        self.report.check(right, "the event entity tells the start of a tag, of what, and how sure", about)
        wait(lambda: self.about_event().get("event_type") == "end")
        self.report.check(self.about_event().get("event_type") == "end", "and its end", self.about_event())

    def about_event(self):
        return self.home.states().get("event.gate_tag", {}).get("attributes", {})

    def number(self):
        self.box.see(CAT)
        high = wait(lambda: self.score() > 60) and self.score()
        sensor = self.home.states()["sensor.gate_cat_score"]
        self.report.check(high, "a label's number is the score of its last event in percent", sensor)
        self.report.check(sensor["attributes"].get("unit_of_measurement") == "%", "with its unit", sensor["attributes"])

    def score(self):
        try:
            return float(self.home.state("sensor.gate_cat_score"))
        except (TypeError, ValueError):
            return -1

    def switch(self):
        self.home.call("switch", "turn_off", entity_id="switch.gate_watched")
        self.is_on("binary_sensor.gate_cat", "unavailable", "switched off: its sensors are unavailable")
        self.is_on("switch.gate_watched", "off", "switched off: the switch is off, and there")
        self.home.call("switch", "turn_on", entity_id="switch.gate_watched")
        self.is_on("switch.gate_watched", "on", "switched on again: the switch is on")
        self.available("switched on again: all is available")

    def home_restarts(self):
        before = self.gate()
        self.home.program.stop()
        self.home.start()
        wait(lambda: self.gate() == before)
        self.report.check(self.gate() == before, "Home Assistant starts again: the same entities", self.gate())
        self.available("Home Assistant starts again: all is available")
        self.states_known("Home Assistant starts again: states are known at once")

    def broker_restarts(self):
        for keeps in (True, False):
            self.broker.stop()
            if not keeps:
                for file in self.kept.iterdir():
                    file.unlink()
            time.sleep(1)
            self.start_broker()
            what = "the broker starts again" + ("" if keeps else ", with nothing that was retained")
            self.report.check(wait(lambda: self.box_is_heard()), f"{what}: the box is there again", self.box.said()[-300:])
            self.available(f"{what}: all is available")
            self.states_known(f"{what}: states are known")
            self.shows(("cat", "rocket"), f"{what}: no entity more or less")

    def box_is_heard(self):
        """A tag of now comes through."""
        heard = len(self.listener.all("vtagd/events"))
        self.box.see(CAT)
        return wait(lambda: len(self.listener.all("vtagd/events")) > heard, 3)

    def box_ends(self):
        for how, what in ((signal.SIGKILL, "killed"), (signal.SIGTERM, "stopped")):
            self.box.stop(how)
            # The box itself says that it is down, which is no absence.
            count = len(self.gate())
            wait(lambda: len([e for e in self.home.away() if e in self.gate()]) == count)
            self.report.check(len([e for e in self.home.away() if e in self.gate()]) == count, f"{what}: all of the stream is unavailable", self.home.away())
            self.is_on("binary_sensor.vtagd_edge_1_up", "off", f"{what}: the box is told to be down")
            self.box.start()
            self.available(f"started after it was {what}: all is available")

    def label_goes(self):
        self.box.labels = ["cat"]
        self.box.reload()
        self.shows(("cat",), "a label that is removed goes, and nothing else")
        registered = self.home.think("{{ device_id('binary_sensor.gate_rocket') }}")
        self.report.check(registered == "None", "and leaves the registry", registered)
        left = wait(lambda: not [t for t in self.retained() if "rocket" in t])
        self.report.check(left, "and nothing of it lies at the broker", [t for t in self.retained() if "rocket" in t])
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "it comes back")
        # While the box is away.
        self.box.stop()
        self.box.labels = ["cat"]
        self.box.start()
        self.shows(("cat",), "one that was removed while the box was away goes at its start")
        self.box.stop()
        self.box.labels = ["cat", "rocket"]
        self.box.start()
        self.shows(("cat", "rocket"), "and comes back")

    def retained(self):
        """What lies at the broker now."""
        who = Listener(BROKER, ["#", "test/mark"])
        who.publish("test/mark", "x")
        wait(lambda: who.last("test/mark"))
        lies = [topic for topic, payload, lay_there, _ in who.all() if lay_there and payload]
        who.close()
        return lies

    def label_renamed(self):
        self.box.labels = ["cat", "kitten"]
        self.box.reload()
        self.shows(("cat", "kitten"), "a renamed label: the old name goes, the new one comes")
        self.box.see(CAT)
        self.is_on("binary_sensor.gate_kitten", "on", "and goes on")
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "renamed back: the old one has its id again")

    def other_letters(self):
        def named(name):
            """Its sensor: Home Assistant makes an id of its own of such names."""
            wanted = f"gate {name}"
            return next((e for e, s in self.home.states().items() if e.startswith("binary") and s["attributes"].get("friendly_name") == wanted), None)

        self.box.labels = ["cat", "rocket", "猫"]
        self.box.reload()
        wait(lambda: named("猫"))
        entity = named("猫")
        self.report.check(entity, "a label of other letters has a sensor with its name", list(self.home.states()))
        self.box.see(CAT)
        self.is_on(entity, "on", "which goes on")
        self.box.labels = ["鳥", "cat", "rocket", "猫"]
        self.box.reload()
        wait(lambda: named("鳥"))
        self.report.check(named("猫") == entity and named("鳥") not in (None, entity), "another one beside it takes nothing from it", (named("猫"), named("鳥")))
        self.box.labels = ["cat", "rocket", "鳥"]
        self.box.reload()
        self.report.check(wait(lambda: not named("猫")), "and it goes alone", named("猫"))
        self.report.check(named("鳥"), "the other one stays", list(self.home.states()))
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "after that all is as before")

    def two_boxes(self):
        other = Daemon(self.folder / "edge-2", 8643, self.sink("vtagd/edge-2"), labels=("cat",), streams=("yard",), instance="edge-2")
        other.start()
        found = wait(lambda: self.home.state("binary_sensor.yard_cat") in ("on", "off"))
        self.report.check(found, "a second box has its devices beside the first's", list(self.home.states()))
        camera, box = self.home.device("binary_sensor.yard_cat"), self.home.device("binary_sensor.vtagd_edge_2_up")
        first = self.home.device("binary_sensor.vtagd_edge_1_up")
        self.report.check(camera["via_device_id"] == box["id"] != first["id"], "its stream is reached through it alone", (camera, box, first))
        other.see(CAT, "yard")
        self.is_on("binary_sensor.yard_cat", "on", "its tags are its own")
        self.report.check(self.home.state("binary_sensor.gate_cat") == "off", "and not the first's")
        other.stop(signal.SIGKILL)
        self.is_on("binary_sensor.yard_cat", "unavailable", "killed: its stream is unavailable")
        self.report.check(not set(self.home.away()) & set(self.gate()), "and the first's is not", self.home.away())
        self.shows(("cat", "rocket"), "the first one is as it was")

    def lost_and_gone(self):
        """The broker loses what it kept, and something goes before it is there again."""
        self.box.streams = ["gate", "door"]
        self.box.reload()
        self.report.check(wait(lambda: self.home.state("binary_sensor.door_cat") in ("on", "off")), "a second stream comes", list(self.home.states()))
        self.box.stop()
        self.broker.stop()
        for file in self.kept.iterdir():
            file.unlink()
        self.start_broker()
        # Home Assistant hears of it only once it is connected again.
        config, back = "homeassistant/binary_sensor/back/config", "binary_sensor.back"
        for _ in range(PATIENCE):
            self.listener.publish(config, json.dumps({"name": "back", "unique_id": "back", "state_topic": "test/back"}))
            if wait(lambda: self.home.state(back), 1):
                break
        self.listener.publish(config, "")
        self.box.labels, self.box.streams = ["cat"], ["gate"]
        self.box.start()
        self.shows(("cat",), "a label that went meanwhile goes from Home Assistant too")
        gone = wait(lambda: not [e for e in self.home.states() if ".door_" in e])
        self.report.check(gone, "and a stream", list(self.home.states()))
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "the label comes back")

    def home_comes_last(self):
        """Broker and box come back together, and Home Assistant only later: it has not heard what was said once."""
        self.box.streams = ["gate", "door"]
        self.box.reload()
        self.report.check(wait(lambda: self.home.state("binary_sensor.door_cat") in ("on", "off")), "a second stream comes", list(self.home.states()))
        self.home.program.child.send_signal(signal.SIGSTOP)
        self.box.stop()
        self.broker.stop()
        for file in self.kept.iterdir():
            file.unlink()
        self.start_broker()
        self.box.labels, self.box.streams = ["cat"], ["gate"]
        documents = lambda: [json.loads(p) for _, p, _, _ in self.listener.all("homeassistant/device/vtagd_gate/config") if p]
        parted = lambda since: [d for d in documents()[since:] if d["cmps"].get("label_rocket") == {"p": "binary_sensor"}]
        for life in ("the box says so", "it was killed, and says so again"):
            # Who listens hears it only once it is connected again.
            self.listener.publish("test/mark", "x")
            since = len(documents())
            self.box.start()
            self.report.check(wait(lambda: parted(since)), f"nobody is there: {life}", [list(d["cmps"]) for d in documents()[since:]])
            self.box.stop(signal.SIGKILL)
        self.box.start()
        self.home.program.child.send_signal(signal.SIGCONT)
        self.shows(("cat",), "Home Assistant comes: the label goes")
        gone = wait(lambda: not [e for e in self.home.states() if ".door_" in e])
        self.report.check(gone, "and the stream", list(self.home.states()))
        # Of this box: a second one of an earlier scenario does not run any more, and the broker has lost what it said.
        away = lambda: [entity for entity in self.home.away() if ".gate_" in entity]
        wait(lambda: self.home.states() and not away())
        self.report.check(not away(), "what is left is available", away())
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "the label comes back")

    def home_is_down(self):
        """A label goes while Home Assistant does not run. (Of a whole stream it lets go only if it has met it since it started.)"""
        self.home.program.stop()
        self.box.labels = ["cat"]
        self.box.reload()
        self.home.start()
        self.shows(("cat",), "it starts: the label is gone, and leaves the registry")
        self.box.labels = ["cat", "rocket"]
        self.box.reload()
        self.shows(("cat", "rocket"), "the label comes back")

    def stream_goes(self):
        self.box.streams = ["gate", "door"]
        self.box.reload()
        self.report.check(wait(lambda: self.home.state("binary_sensor.door_cat") in ("on", "off")), "a stream that is added has a device", list(self.home.states()))
        self.box.streams = ["gate"]
        self.box.reload()
        gone = wait(lambda: not [e for e in self.home.states() if ".door_" in e])
        self.report.check(gone, "removed: its entities go", list(self.home.states()))
        self.shows(("cat", "rocket"), "and no other")

    def log(self):
        """Home Assistant has nothing to say about us."""
        # That its broker went away, as it was made to; its own reconnecting logs as paho.
        absent = ("Disconnected from MQTT server", "Failed to connect to MQTT server", "The connection was lost", "not currently connected", "paho.mqtt.client")
        lines = [line for line in self.home.said().splitlines() if "mqtt" in line.lower() and any(w in line for w in ("WARNING", "ERROR"))]
        lines = [line for line in lines if not any(what in line for what in absent)]
        self.report.check(not lines, "no warning and no error about MQTT", "\n".join(lines[:5]))
        templates = [line for line in self.home.said().splitlines() if "emplate" in line and "value_json" in line]
        self.report.check(not templates, "and none about a template of ours", "\n".join(templates[:5]))
        ours = [line for line in self.box.said().splitlines() if " ERROR " in line]
        self.report.check(not ours, "no error in vtagd's log", "\n".join(ours[:5]))


ALL = (
    "appears", "health", "fires", "event_entity", "number", "switch", "home_restarts", "broker_restarts", "box_ends", "label_goes", "label_renamed",
    "other_letters", "two_boxes", "stream_goes", "lost_and_gone", "home_comes_last", "home_is_down", "log",
)


def main():
    wanted = sys.argv[1:] or ALL
    if not set(wanted) <= set(ALL):
        sys.exit(f"scenarios are: {' '.join(ALL)}")
    if not shutil.which("mosquitto"):
        sys.exit("mosquitto is missing: run make test-home-assistant")
    alone()
    scenarios = Scenarios()
    for name in ALL:
        if name in wanted or name == "appears":
            scenarios.report.subject = name.replace("_", " ")
            getattr(scenarios, name)()
    sys.exit(scenarios.report.end())


if __name__ == "__main__":
    main()
