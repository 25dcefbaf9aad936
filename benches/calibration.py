#!/usr/bin/env python3
"""How far marks of a minute reach: thresholds from the first half of real footage, held against its later half, through the real binary.

  benches/calibration.py [--vtagd target/release/vtagd] [--footage ../shared/footage] [--every 500ms] [--view tiles]

car-detection and onebyone: marks of the first half, at most 30 s a label; then `run` over the whole clip, of which the later half counts:
strict F1 (one to one, IoU >= 0.3), share of the time without the label that is tagged, share of the time with it that is covered. produce and
toys, whose things appear once: marks of the first half of each interval; balanced accuracy a frame on the rest. Wanted: 0.95, 5 %, 90 %; 0.95.
--shifts: the same thresholds on the later half darkened, moved by 8 % of its width and height, and blurred, as GStreamer makes it; wanted: strict F1 0.85.
--history: marks are times of the clock, and thresholds come from what a daemon has kept that watched the clip in real time.
--learn N: N moments of what is marked as seen become examples of their label, and N of what is marked as absent its counter-examples (`learn: auto`, or
--always).
What halving a visit leaves of less than half a second is no visit of the later half, which begins behind it.
"""

import argparse
import datetime
import json
import os
import subprocess
import tempfile

EDGE = 0.5
MOST = 30.0
# What becomes of a picture of this width and height.
SHIFTS = {
    # Half as bright.
    "darkened": lambda w, h: "videobalance contrast=0.5 brightness=-0.25",
    # The rest is black: nobody knows what the camera would see there.
    "moved": lambda w, h: f"videobox left={w * 8 // 100} right=-{w * 8 // 100} top={h * 8 // 100} bottom=-{h * 8 // 100}",
    "blurred": lambda w, h: "videoconvert ! gaussianblur sigma=2.5",
}


def yaml_set(name, background, labels, learned=None):
    return json.dumps({
        "set": name,
        "scoring": "independent",
        "background": background,
        "labels": [{"name": label, "prompts": prompts, **(learned or {}).get(label, {})} for label, prompts in labels.items()],
    })


def moments(spans, count):
    """So many moments, evenly over what the intervals cover together, a quarter of a second within their edges."""
    inner = [(a + 0.25, b - 0.25) for a, b in spans if b - a > 0.6]
    total = sum(b - a for a, b in inner)
    found = []
    for at in range(count if total else 0):
        left = total * (at + 0.5) / count
        for a, b in inner:
            if left <= b - a:
                found.append(round(a + left, 2))
                break
            left -= b - a
    return found


def cut(spans, low, high):
    inside = ((max(a, low), min(b, high)) for a, b in spans)
    return [(a, b) for a, b in inside if b - a > 0]


def later_start(spans, half):
    """Where the later half begins: edges within half a second are a matter of taste, so a shorter end of a visit is none."""
    return max([half] + [b for a, b in spans if a < half < b < half + EDGE])


def without(spans, low, high):
    out, at = [], low
    for a, b in sorted(spans):
        if a > at:
            out.append((at, min(a, high)))
        at = max(at, b)
    return out + ([(at, high)] if at < high else [])


def at_most(spans, seconds):
    """Pieces of each, so that together they are no longer: as a person marks a few seconds of several visits."""
    each = seconds / max(1, len(spans))
    return [[round(a, 2), round(min(b, a + each), 2)] for a, b in spans]


def shared(a, b):
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def strict(tags, truth):
    pairs = []
    for i, tag in enumerate(tags):
        for j, seen in enumerate(truth):
            both = shared(tag, seen)
            union = tag[1] - tag[0] + seen[1] - seen[0] - both
            if union > 0 and both / union >= 0.3:
                pairs.append((both / union, i, j))
    used_tags, used = set(), set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in used_tags and j not in used:
            used_tags.add(i)
            used.add(j)
    return len(used), len(tags) - len(used), len(truth) - len(used)


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.env = dict(os.environ, STATE_DIRECTORY=os.path.join(folder, "state"))

    def vtagd(self, *words):
        done = subprocess.run([self.args.vtagd, *words], capture_output=True, text=True, env=self.env)
        if done.returncode:
            raise SystemExit(f"vtagd {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def learned(self, clip, marks):
        """Examples and counter-examples of each label that is marked both as seen and as absent."""
        learned = {}
        for label, of in marks["labels"].items():
            seen, absent = (moments(of[kind], self.args.learn) for kind in ("seen", "absent"))
            if seen and absent:
                item = lambda at: f"{os.path.abspath(clip)}@{at}"
                learned[label] = {"examples": list(map(item, seen)), "counter_examples": list(map(item, absent))}
                if self.args.always:
                    learned[label]["learn"] = "always"
        return learned

    def config(self, clip, background, labels, every=None, pace="fast", min_change=None, watch=False, learned=None):
        with open(os.path.join(self.folder, "set.yaml"), "w") as out:
            out.write(yaml_set("footage", background, labels, learned))
        more = {}
        if min_change is not None:
            more["history"] = {"path": os.path.join(self.folder, "history"), "min_change": min_change}
        if watch:
            # A tag that is open from the first sample on tells when that was.
            with open(os.path.join(self.folder, "clock.yaml"), "w") as out:
                out.write(json.dumps({"set": "clock", "background": ["a wall"],
                                      "labels": [{"name": "always", "enter": {"margin": -90}, "exit": {"margin": -95}, "after": "0s"}]}))
        path = os.path.join(self.folder, "vtagd.yaml")
        with open(path, "w") as out:
            out.write(json.dumps({
                "model": {"path": "starter"},
                "sampling": {"interval": every or self.args.every},
                "streams": [{"id": "clip", "url": f"file://{os.path.abspath(clip)}", "pace": pace,
                             "view": {"mode": self.args.view}}],
                "labels": ["set.yaml", "clock.yaml"] if watch else ["set.yaml"],
                "sinks": [{"type": "jsonl", "path": "-"}],
                "api": {"listen": "off"},
                **more,
            }))
        return path

    def shifted(self, clip, size, how):
        """The clip, as it would look then."""
        out = os.path.join(self.folder, f"{how}.mp4")
        source = os.path.join(self.args.footage, clip)
        pipeline = (f"filesrc location={source} ! decodebin ! videoconvert ! video/x-raw,format=I420 ! {SHIFTS[how](*size)} ! videoconvert "
                    f"! video/x-raw,format=I420 ! x264enc pass=quant quantizer=18 speed-preset=veryfast ! h264parse ! mp4mux ! filesink location={out}")
        subprocess.run(["gst-launch-1.0", "-q", "-e", *pipeline.split()], check=True, capture_output=True)
        return out

    def watched(self, config):
        """Watches the clip in real time; when its first picture was, by the clock."""
        begun = None
        for line in self.vtagd("run", "-c", config).splitlines():
            data = json.loads(line)["data"]
            start = datetime.datetime.fromisoformat(data["started_at"]).timestamp() - data["media_start"]
            begun = start if begun is None else min(begun, start)
        return begun

    def calibrate(self, config, marks):
        path = os.path.join(self.folder, "marks.json")
        with open(path, "w") as out:
            out.write(json.dumps(marks))
        words = ["labels", "calibrate", "footage", "-c", config, "--stream", "clip", "--marks", path, "--write", "--json"]
        return json.loads(self.vtagd(*words))

    def tags(self, config):
        tags = {}
        for line in self.vtagd("run", "-c", config).splitlines():
            event = json.loads(line)
            if event["type"].endswith("end") and event["data"]["set"] == "footage":
                data = event["data"]
                tags.setdefault(data["label"], []).append((data["media_start"], data["media_end"]))
        return tags

    def halves(self, clip, truth, background, labels):
        path = os.path.join(self.args.footage, clip)
        half = truth["seconds"] / 2
        marks = {"labels": {}}
        for label in labels:
            spans = truth["intervals"].get(label, [])
            marks["labels"][label] = {
                "seen": at_most(cut(spans, 0, half), MOST / 2),
                "absent": at_most(without(cut(spans, 0, half), 0, half), MOST / 2),
            }
        learned = self.learned(path, marks) if self.args.learn else None
        if self.args.history:
            self.from_history(path, background, labels, marks)
        else:
            self.calibrate(self.config(path, background, labels, learned=learned), marks)
        rows = [self.later_half(clip, truth, labels, self.tags(self.config(path, background, labels, learned=learned)))]
        for how in SHIFTS if self.args.shifts else ():
            config = self.config(self.shifted(clip, truth["size"], how), background, labels, learned=learned)
            row = self.later_half(clip, truth, labels, self.tags(config))
            rows.append({"shift": how, **row})
        return rows

    def from_history(self, path, background, labels, marks):
        """The marks by the clock of a daemon that has watched the clip in real time, and what it has kept."""
        config = self.config(path, background, labels, pace="live", min_change=self.args.min_change, watch=True)
        begun = self.watched(config)
        clock = lambda at: datetime.datetime.fromtimestamp(begun + at, datetime.timezone.utc).isoformat()
        spans = lambda some: [[clock(a), clock(b)] for a, b in some]
        by_clock = {"labels": {label: {kind: spans(some) for kind, some in of.items()} for label, of in marks["labels"].items()}}
        found = self.calibrate(config, by_clock)
        both = {one["label"]: one["rows_of_both"] for one in found["labels"] if one["rows_of_both"]}
        refused = {one["label"]: one["refused"] for one in found["labels"] if one["refused"]}
        print(json.dumps({"min_change": self.args.min_change, "rows_of_both": both, "refused": refused}), flush=True)

    @staticmethod
    def later_half(clip, truth, labels, tags):
        seconds, half = truth["seconds"], truth["seconds"] / 2
        hits = false = missed = 0
        absent = [0.0, 0.0]
        present = [0.0, 0.0]
        strange = 0
        for label in labels:
            start = later_start(truth["intervals"].get(label, []), half)
            seen = cut(truth["intervals"].get(label, []), start, seconds)
            told = cut(tags.get(label, []), start, seconds)
            h, f, m = strict(told, seen)
            hits, false, missed = hits + h, false + f, missed + m
            strange += 0 if seen else len(told)
            wide = [(a - EDGE, b + EDGE) for a, b in seen]
            for span in without(wide, start, seconds):
                absent[0] += span[1] - span[0]
                absent[1] += sum(shared(span, tag) for tag in told)
            for a, b in seen:
                inner = (a + EDGE, b - EDGE)
                present[0] += max(0.0, inner[1] - inner[0])
                present[1] += sum(shared(inner, tag) for tag in told)
        f1 = 2 * hits / max(1, 2 * hits + false + missed)
        return {"clip": clip, "f1": round(f1, 3), "right": hits, "false": false, "missed": missed,
                "false_of_labels_not_there": strange,
                "absent_tagged": round(absent[1] / max(1e-9, absent[0]), 4),
                "present_covered": round(present[1] / max(1e-9, present[0]), 4)}

    def frames(self, clip, truth, background, labels):
        path = os.path.join(self.args.footage, clip)
        seconds = truth["seconds"]
        marks, rest = {"labels": {}}, {}
        for label in labels:
            spans = truth["intervals"].get(label, [])
            first, later = [], []
            for is_seen, some in ((True, spans), (False, without(spans, 0, seconds))):
                for a, b in some:
                    middle = (a + b) / 2
                    first.append((is_seen, [a, middle]))
                    later.append((is_seen, [middle, b]))
            marks["labels"][label] = {"seen": [s for seen, s in first if seen], "absent": [s for seen, s in first if not seen]}
            rest[label] = later
        learned = self.learned(path, marks) if self.args.learn else None
        config = self.config(path, background, labels, self.args.frames_every, learned=learned)
        found = self.calibrate(config, marks)
        enter = {one["label"]: one["found"] and one["found"]["enter"]["margin"] for one in found["labels"]}
        lines = self.vtagd("tag", "--stream", "clip", "-c", config, "--json").splitlines()
        # Of labels that are in the clip; the others have nothing to be seen.
        accuracies, strange, frames = {}, 0, 0
        for label, later in rest.items():
            counts = {True: [0, 0], False: [0, 0]}
            for line in map(json.loads, lines):
                margin = next(tag["margin"] for tag in line["tags"] if tag["label"] == label)
                for is_seen, (a, b) in later:
                    if a <= line["pts"] <= b and not (line["pts"] > b - EDGE):
                        told = enter[label] is not None and margin >= enter[label]
                        counts[is_seen][0] += 1
                        counts[is_seen][1] += told == is_seen
            if counts[True][0] and counts[False][0]:
                accuracies[label] = sum(right / of for of, right in counts.values()) / 2
            else:
                strange += counts[False][0] - counts[False][1]
                frames += counts[False][0]
        mean = sum(accuracies.values()) / max(1, len(accuracies))
        return {"clip": clip, "balanced_accuracy": round(mean, 3),
                "labels": {label: round(value, 3) for label, value in accuracies.items()},
                "refused": {one["label"]: one["refused"] for one in found["labels"] if one["refused"]},
                "false_frames_of_labels_not_there": f"{strange} of {frames}"}


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vtagd", default=os.path.join(here, "target/release/vtagd"))
    parser.add_argument("--footage", default=os.path.join(here, "../shared/footage"))
    parser.add_argument("--every", default="500ms")
    parser.add_argument("--frames-every", default="200ms", help="for produce and toys, whose first halves are seconds long")
    parser.add_argument("--only", nargs="*", help="only these clips")
    parser.add_argument("--view", default="tiles")
    parser.add_argument("--shifts", action="store_true")
    parser.add_argument("--history", action="store_true")
    parser.add_argument("--learn", type=int, default=0, help="so many examples and counter-examples a label, at most 32")
    parser.add_argument("--always", action="store_true", help="with --learn: `learn: always`")
    parser.add_argument("--min-change", type=float, default=0.0, help="of --history: `history.min_change`")
    args = parser.parse_args()
    with open(os.path.join(args.footage, "truth.json")) as file:
        truth = json.load(file)
    os.chdir(here)
    for clip, how in (("car-detection", "halves"), ("onebyone", "halves"), ("produce", "frames"), ("toys", "frames")):
        if args.only and clip not in args.only:
            continue
        background, labels = truth["label_sets"][clip]
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(args, folder)
            rows = getattr(bench, how)(f"{clip}.mp4", truth["clips"][f"{clip}.mp4"], background, labels)
            for row in rows if isinstance(rows, list) else [rows]:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
