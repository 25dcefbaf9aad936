#!/usr/bin/env python3
"""How far labels can be trusted on real footage, through the real binary: F1 against how often strangers are told, for each way to keep strangers out.

  benches/trust.py [--vtagd target/release/vtagd] [--footage ../shared/footage] [--out docs/trust.md] [--clips car-detection.mp4,onebyone.mp4]

Of each clip: thresholds from marks of its first half (at most 30 s a label), five examples of the label out of that half, and five counter-examples: the empty
scene, and pieces of four other clips pasted into it, of other kinds than the strangers that are tried. Then `vtagd labels report` on the later half:
strict F1, absent time tagged, present time covered, and the intruder rate. Needs Pillow (make setup has it). With --out the tables in the page are renewed.
"""

import argparse
import json
import os
import subprocess
import tempfile

from PIL import Image

from calibration import EDGE, MOST, at_most, cut, later_start, without

# What is wanted of a label, as a set's keys.
WAYS = {
    "texts": ({}, {}),
    "texts, nouns": ({"nouns": True}, {}),
    "examples (learn: auto)": ({}, {"learn": "auto"}),
    "examples, nouns (learn: auto)": ({"nouns": True}, {"learn": "auto"}),
    "learn: always": ({}, {"learn": "always"}),
    "learn: always, nouns": ({"nouns": True}, {"learn": "always"}),
    "learn: always, similarity 0": ({}, {"learn": "always", "similarity": 0}),
    "learn: always, similarity 0.7": ({}, {"learn": "always", "similarity": 0.7}),
    "learn: always, similarity 0.8": ({}, {"learn": "always", "similarity": 0.8}),
}
# The label of each clip, and when pieces of others show one thing.
LABELS = {"car-detection.mp4": "car", "onebyone.mp4": "person"}
OTHERS = [("bottle-detection.mp4", 5), ("flower.mp4", 2), ("produce.mp4", 4), ("toys.mp4", 4)]
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"


class Trust:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.env = dict(os.environ, STATE_DIRECTORY=os.path.join(folder, "state"))

    def path(self, name):
        return os.path.join(self.folder, name)

    def clip(self, name):
        return os.path.abspath(os.path.join(self.args.footage, name))

    def vtagd(self, *words):
        done = subprocess.run([self.args.vtagd, *words], capture_output=True, text=True, env=self.env)
        if done.returncode:
            raise SystemExit(f"vtagd {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def frame(self, clip, at):
        """The frame at that second, as a picture."""
        out = self.path(f"{os.path.basename(clip)}-{at}.png")
        if not os.path.exists(out):
            # One frame a half second; the clips begin at 0.
            place = self.path(f"{os.path.basename(clip)}-%d.png")
            pipeline = (f"filesrc location={self.clip(clip)} ! decodebin ! videorate ! video/x-raw,framerate=2/1 ! videoconvert ! pngenc "
                        f"! multifilesink location={place}")
            subprocess.run(["gst-launch-1.0", "-q", *pipeline.split()], check=True, capture_output=True)
            os.replace(place % round(at * 2), out)
        return out

    def counter_examples(self, clip, empty):
        """The empty scene, and pieces of other clips pasted into it."""
        scene = Image.open(self.frame(clip, empty)).convert("RGB")
        names = [self.frame(clip, empty)]
        width, height = scene.size
        for at, (other, second) in enumerate(OTHERS):
            piece = Image.open(self.frame(other, second)).convert("RGB")
            side = min(piece.size) * 6 // 10
            left, top = (piece.width - side) // 2, (piece.height - side) // 2
            wide = int(min(width, height) * (0.25, 0.4)[at % 2])
            piece = piece.crop((left, top, left + side, top + side)).resize((wide, wide))
            pasted = scene.copy()
            pasted.paste(piece, (int(width * (0.35, 0.5)[at % 2]) - wide // 2, int(height * (0.4, 0.6)[at // 2]) - wide // 2))
            names.append(self.path(f"{clip}-counter-{at}.png"))
            pasted.save(names[-1])
        return names

    def config(self, clip, background, labels, way, examples, counter):
        of_set, of_label = WAYS[way]
        label = {"name": LABELS[clip], "prompts": labels[LABELS[clip]]}
        if "learn" in of_label:
            label |= {"examples": examples, "counter_examples": counter, **of_label}
        background = background + (["nouns"] if of_set.get("nouns") else [])
        with open(self.path("set.yaml"), "w") as out:
            out.write(json.dumps({"set": "footage", "scoring": "independent", "background": background, "labels": [label]}))
        with open(self.path("vtagd.yaml"), "w") as out:
            out.write(json.dumps({
                # A folder goes by where this was called; anything else is a name that the daemon knows.
                "model": {"path": os.path.abspath(self.args.model) if os.path.isdir(self.args.model) else self.args.model},
                "sampling": {"interval": self.args.every},
                "streams": [{"id": "clip", "url": f"file://{self.clip(clip)}", "pace": "fast", "view": {"mode": self.args.view}}],
                "labels": ["set.yaml"],
                "sinks": [{"type": "jsonl", "path": "-"}],
                "api": {"listen": "off"},
            }))
        return self.path("vtagd.yaml")

    def marks(self, name, spans, low, high, most):
        seen = cut(spans, low, high)
        absent = without([(a - EDGE, b + EDGE) for a, b in seen], low, high)
        marks = {"labels": {name: {"seen": at_most(seen, most) if most else seen, "absent": at_most(absent, most) if most else absent}}}
        with open(self.path("marks.json"), "w") as out:
            out.write(json.dumps(marks))
        return self.path("marks.json")

    def measure(self, clip, truth, background, labels):
        name, seconds = LABELS[clip], truth["seconds"]
        spans = truth["intervals"][name]
        first = cut(spans, 0, seconds / 2)
        moments = [a + (b - a) * part for a, b in first for part in (0.25, 0.5, 0.75)]
        chosen = [moments[at * len(moments) // 5] for at in range(5)]
        examples = [f"{self.clip(clip)}@{at:.2f}" for at in chosen]
        empty = without([(a - 1, b + 1) for a, b in spans], 0, seconds / 2)[0]
        counter = self.counter_examples(clip, round((empty[0] + empty[1]) / 2, 1))
        for way in self.args.ways:
            config = self.config(clip, background, labels, way, examples, counter)
            on = ["footage", "-c", config, "--stream", "clip", "--json", "--marks"]
            self.vtagd("labels", "calibrate", *on, self.marks(name, spans, 0, seconds / 2, MOST / 2), "--write")
            report = json.loads(self.vtagd("labels", "report", *on, self.marks(name, spans, later_start(spans, seconds / 2), seconds, None)))
            one = report["labels"][0]
            rate = lambda what: (what or {}).get("value")
            row = {
                "clip": clip, "label": name, "way": way, "f1": rate(one["f1"]), "absent_tagged": rate(one["absent_tagged"]),
                "present_covered": rate(one["present_covered"]), "intruders": rate((one["intruders"] or {}).get("rate")),
                "by_kind": (one["intruders"] or {}).get("by_kind"), "by_texts": (one["learned"] or {}).get("by_texts"),
            }
            print(json.dumps(row), flush=True)
            yield row


def table(rows):
    share = lambda value: "-" if value is None else f"{value * 100:.0f} %"
    lines = ["| clip, label | way | strict F1 | absent time tagged | present time covered | strangers told |", "|---|---|---|---|---|---|"]
    for row in rows:
        f1 = "-" if row["f1"] is None else f"{row['f1']:.2f}"
        lines.append(f"| {row['clip']}, {row['label']} | {row['way']} | {f1} | {share(row['absent_tagged'])} | {share(row['present_covered'])} | {share(row['intruders'])} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vtagd", default="target/release/vtagd")
    parser.add_argument("--footage", default="../shared/footage")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--view", default="tiles")
    parser.add_argument("--every", default="500ms")
    parser.add_argument("--out")
    parser.add_argument("--clips", default=",".join(LABELS), type=str)
    parser.add_argument("--ways", default=";".join(WAYS), type=lambda text: text.split(";"))
    args = parser.parse_args()
    with open(os.path.join(args.footage, "truth.json")) as file:
        truth = json.load(file)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in args.clips.split(","):
            background, labels = truth["label_sets"][os.path.splitext(clip)[0]]
            rows.extend(Trust(args, folder).measure(clip, truth["clips"][clip], background, labels))
    print(table(rows))
    if args.out:
        with open(args.out) as file:
            before, rest = file.read().split(BEGIN)
        after = rest.split(END)[1]
        with open(args.out, "w") as file:
            file.write(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
