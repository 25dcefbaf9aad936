"""Holds an AsyncAPI document against itself, and messages against it; each complaint is a line. With Python's jsonschema.

    asyncapi.py DOCUMENT                 references lead somewhere, examples fit their schemas, addresses and parameters go together
    asyncapi.py DOCUMENT PROTOCOL <MESSAGES      a JSON object a line, {"topic", "payload" (text, or null where it is none), "headers"}
"""

import json
import re
import sys
import warnings

# Newer versions have another way to follow references, which Debian 12's has not.
warnings.simplefilter("ignore", DeprecationWarning)

import jsonschema


def main():
    document = json.load(open(sys.argv[1]))
    for complaint in alone(document) if len(sys.argv) == 2 else messages(document, sys.argv[2]):
        print(complaint)


def found(document, reference):
    place = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step.replace("~1", "/").replace("~0", "~")]
    return found(document, place["$ref"]) if isinstance(place, dict) and "$ref" in place else place


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def complaints(document, schema, value):
    resolver = jsonschema.RefResolver("", document)
    judge = jsonschema.Draft7Validator(schema, resolver=resolver, format_checker=jsonschema.draft7_format_checker)
    wrong = [f"{error.json_path}: {error.message[:200]}" for error in judge.iter_errors(value)]
    return wrong + list(undescribed(document, schema, value, "$"))


def undescribed(document, schema, value, path):
    """Keys that the document does not name, in objects of which it names some and does not say that there are others."""
    if "$ref" in schema:
        schema = found(document, schema["$ref"])
    named, others = schema.get("properties"), schema.get("additionalProperties")
    if not isinstance(value, dict) or named is None and not isinstance(others, dict):
        return
    for key, inner in value.items():
        described = (named or {}).get(key, others)
        if described is None:
            yield f"{path}.{key}: the document does not name it"
        elif isinstance(described, dict):
            yield from undescribed(document, described, inner, f"{path}.{key}")


def alone(document):
    for reference in set(references(document)):
        try:
            found(document, reference)
        except (KeyError, TypeError):
            yield f"{reference} leads nowhere"
    for name, schema in document["components"]["schemas"].items():
        try:
            jsonschema.Draft7Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            yield f"schema {name}: {error.message}"
    for name, message in document["components"]["messages"].items():
        if message["contentType"] != "image/jpeg" and not message.get("examples"):
            yield f"message {name} has no example"
        for example in message.get("examples", []):
            for complaint in complaints(document, message["payload"], example["payload"]):
                yield f"message {name}, example {example['name']}: {complaint}"
    operated = [operation["channel"]["$ref"].split("/")[-1] for operation in document["operations"].values()]
    for name, channel in document["channels"].items():
        if set(re.findall(r"\{(\w+)\}", channel["address"])) != set(channel["parameters"]):
            yield f"channel {name}: its parameters are not those of its address"
        if operated.count(name) != 1:
            yield f"channel {name} has {operated.count(name)} operations"


def messages(document, protocol):
    channels = [c for c in document["channels"].values() if c["servers"][0]["$ref"] == f"#/servers/{protocol}"]
    # A prefix may have levels, so an address is told by its end: what ends in most words goes first, and then what has most levels.
    channels.sort(key=lambda channel: exactness(channel["address"]), reverse=True)
    for line in sys.stdin:
        message = json.loads(line)
        channel = next((c for c in channels if re.fullmatch(pattern(c), message["topic"])), None)
        if channel is None:
            yield f"{message['topic']}: there is no such channel"
            continue
        (reference,) = channel["messages"].values()
        described = found(document, reference["$ref"])
        payload = message["payload"]
        # What is retained is taken away by an empty message.
        if payload is None or payload == "":
            continue
        if "json" in described["contentType"]:
            payload = json.loads(payload)
        for complaint in complaints(document, described["payload"], payload):
            yield f"{message['topic']}: {complaint}"
        if "headers" in message:
            for complaint in complaints(document, described["headers"], message["headers"]):
                yield f"{message['topic']}, headers: {complaint}"


def exactness(address):
    parts = re.split(r"[/.]", address)
    words = next((at for at, part in enumerate(reversed(parts)) if part.startswith("{")), len(parts))
    return words, len(parts)


def pattern(channel):
    # A prefix may have levels; nothing else has.
    parts = re.split(r"(\{\w+\})", channel["address"])
    return "".join(".+" if "prefix" in p else "[^/]+" if p.startswith("{") else re.escape(p) for p in parts)


main()
