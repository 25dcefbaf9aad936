#!/usr/bin/env python3
"""Prints every tag that has ended, with how long it lasted, from MQTT. Needs paho-mqtt (Debian: python3-paho-mqtt).

Usage: events.py [HOST [PORT [PREFIX]]]
"""

import json
import sys
from collections import OrderedDict
from datetime import datetime

import paho.mqtt.client as mqtt

HOST = sys.argv[1] if len(sys.argv) > 1 else "localhost"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 1883
PREFIX = sys.argv[3] if len(sys.argv) > 3 else "vtagd"

seen = OrderedDict()  # ids of the last events: an event may come twice, always with the same id


def is_new(event):
    if event["id"] in seen:
        return False
    seen[event["id"]] = True
    if len(seen) > 10_000:
        seen.popitem(last=False)
    return True


def on_connect(client, _userdata, _flags, code, *_rest):
    print("connected" if code == 0 else f"refused: {code}", file=sys.stderr, flush=True)
    client.subscribe(f"{PREFIX}/events", qos=1)


def on_message(_client, _userdata, message):
    event = json.loads(message.payload)
    data = event["data"]
    if event["type"] != "dev.vtagd.tag.end" or not is_new(event):
        return
    moment = lambda text: datetime.fromisoformat(text[:19])
    seconds = (moment(data["ended_at"]) - moment(data["started_at"])).total_seconds()
    print(f"{data['stream']}: {data['label']} for {seconds:.0f} s, peak {data['peak']:.2f}", flush=True)


# A session that stays: the broker keeps what comes while this script is not running.
arguments = {"client_id": f"tags-{PREFIX}-py", "clean_session": False}
if hasattr(mqtt, "CallbackAPIVersion"):  # paho-mqtt 2
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, **arguments)
else:
    client = mqtt.Client(**arguments)
client.on_connect = on_connect
client.on_message = on_message
client.connect(HOST, PORT)
client.loop_forever()
