#!/usr/bin/env python3
"""What a stranger's first label set tells with nothing but defaults, and which defaults would tell more: real footage, the real binary.

  benches/as_it_comes.py [--vtagd target/release/vtagd] [--footage ../shared/footage] [--keep FOLDER]

Label sets of truth.json as they are, two samples a second. The binary scores each clip once for each view, all ways of scoring at a time (`tag --json`); its
tracker is gone through again here for every choice of thresholds and times, and held against `tag --events` for the defaults, so that both say the same. Strict
F1 (tags and truth one to one, IoU >= 0.3), the mean over clips. Leave one clip out: a choice is made on the others alone, and counted on that clip.
Printed: today, the best choices, what each clip gets where it is left out, false tags of labels that are not in a clip, and the minutes of such labels.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import tempfile

from calibration import shared, strict

EVERY = 0.5
VIEWS = ["model", "squash", "pad", "tiles"]
TODAY = {"view": "model", "scoring": "exclusive", "background": "given", "enter": 0.6, "exit": 0.4, "after": 1.0,
         "after_exit": 1.0, "cooldown": 10.0}
# The defaults of earlier versions.
BEFORE = {**TODAY, "after": 2.0, "after_exit": 2.0, "cooldown": 30.0}
# Of any scene; what a label itself says is left out.
SCENES = ["a wall", "a floor", "a table", "a room", "a street", "the ground", "grass", "trees", "the sky", "a building", "furniture",
          "a shadow", "a blurry picture", "a person", "a hand"]


def logit(p):
    return math.log(p / (1 - p))


def track(samples, enter, leave, after, after_exit, cooldown):
    """As src/event/tracker.rs, without gaps."""
    tags, run, opened, falling, quiet = [], None, None, None, -1.0
    for at, margin in samples:
        if opened is not None:
            falling = (at if falling is None else falling) if margin < leave else None
            if falling is not None and at - falling >= after_exit - 1e-6:
                tags.append((opened, falling))
                opened = run = None
            continue
        if margin < enter:
            run = None
            continue
        run = at if run is None else run
        if at - run >= after - 1e-6 and at >= quiet - 1e-6:
            opened, falling, quiet = run, None, at + cooldown
    if opened is not None:
        tags.append((opened, samples[-1][0] if falling is None else falling))
    return tags


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        with open(os.path.join(args.footage, "truth.json")) as file:
            self.truth = json.load(file)
        self.clips = sorted(name for name in self.truth["label_sets"] if f"{name}.mp4" in self.truth["clips"])
        self.env = dict(os.environ, STATE_DIRECTORY=os.path.join(folder, "state"))

    def vtagd(self, *words):
        done = subprocess.run([self.args.vtagd, *words], capture_output=True, text=True, env=self.env)
        if done.returncode:
            raise SystemExit(f"vtagd {' '.join(map(str, words))}: {done.stderr[-2000:]}")
        return done.stdout

    def sets(self, clip):
        """Every way of scoring the clip's labels, each a set of its own."""
        background, labels = self.truth["label_sets"][clip]
        said = " ".join(sum(labels.values(), [])).split()
        scenes = [scene for scene in SCENES if scene.split()[-1] not in said and scene not in background]
        for scoring in ("exclusive", "independent"):
            for name, more in (("given", []), ("scenes", scenes)):
                text = {"set": f"{scoring}-{name}", "scoring": scoring, "background": background + more,
                        "labels": [{"name": label, "prompts": prompts} for label, prompts in labels.items()]}
                path = os.path.join(self.folder, f"{clip}-{scoring}-{name}.yaml")
                with open(path, "w") as out:
                    out.write(json.dumps(text))
                yield path

    def scores(self, clip, view, file=None):
        """(scoring, background) -> label -> [(pts, margin)]."""
        kept = os.path.join(self.folder, f"{clip}-{view}.json")
        if file is None and os.path.exists(kept):
            with open(kept) as read:
                return {tuple(key.split("-")): value for key, value in json.load(read).items()}
        words = [word for path in self.sets(clip) for word in ("--labels", path)]
        path = file or os.path.join(self.args.footage, f"{clip}.mp4")
        found = {}
        for line in self.vtagd("tag", path, "--every", "500ms", "--view", view, "--json", *words).splitlines():
            line = json.loads(line)
            for tag in line["tags"]:
                if tag["label"] != "(background)":
                    of = found.setdefault(tag["set"], {}).setdefault(tag["label"], [])
                    of.append((line["pts"], tag["margin"] if tag["margin"] is not None else math.inf))
        if file is None:
            with open(kept, "w") as out:
                out.write(json.dumps(found))
        return {tuple(key.split("-")): value for key, value in found.items()}

    def tags(self, clip, choice, scores):
        enter, leave = logit(choice["enter"]), logit(choice["exit"])
        of = scores[clip, choice["view"]][choice["scoring"], choice["background"]]
        return {label: track(samples, enter, leave, choice["after"], choice["after_exit"], choice["cooldown"])
                for label, samples in of.items()}

    def count(self, clip, tags):
        truth = self.truth["clips"][f"{clip}.mp4"]["intervals"]
        hits = false = missed = strange = 0
        for label, of in tags.items():
            seen = [tuple(span) for span in truth.get(label, [])]
            h, f, m = strict([(a, max(b, a + EVERY)) for a, b in of], seen)
            hits, false, missed = hits + h, false + f, missed + m
            strange += 0 if seen else f
        return 2 * hits / max(1, 2 * hits + false + missed), hits, false, missed, strange

    def absent_minutes(self):
        total = 0.0
        for clip in self.clips:
            truth = self.truth["clips"][f"{clip}.mp4"]
            absent = [label for label in self.truth["label_sets"][clip][1] if not truth["intervals"].get(label)]
            total += len(absent) * truth["seconds"] / 60
        return total

    def held_against_the_daemon(self, scores):
        """The tags of the binary itself, for today's defaults."""
        for clip in self.clips:
            background, labels = self.truth["label_sets"][clip]
            path = os.path.join(self.folder, "today.yaml")
            with open(path, "w") as out:
                out.write(json.dumps({"set": "today", "background": background,
                                      "labels": [{"name": name, "prompts": prompts} for name, prompts in labels.items()],
                                      "scoring": TODAY["scoring"]}))
            told = {}
            text = self.vtagd("tag", os.path.join(self.args.footage, f"{clip}.mp4"), "--every", "500ms", "--events", "--json",
                              "--view", TODAY["view"], "--labels", path)
            for line in map(json.loads, text.splitlines()):
                if line.get("type", "").endswith("end"):
                    data = line["data"]
                    told.setdefault(data["label"], []).append((data["media_start"], data["media_end"]))
            ours = {label: tags for label, tags in self.tags(clip, TODAY, scores).items() if tags}
            near = lambda a, b: len(a) == len(b) and all(abs(x - y) < 0.01 for p, q in zip(a, b) for x, y in zip(p, q))
            if set(ours) != set(told) or not all(near(ours[label], told[label]) for label in ours):
                raise SystemExit(f"{clip}: the daemon tells {told}, this script {ours}")


def choices():
    for view, scoring, background in itertools.product(VIEWS, ("exclusive", "independent"), ("given", "scenes")):
        for enter, below in itertools.product((0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), (0.0, 0.5, 1.0, 2.0)):
            leave = 1 / (1 + math.exp(below - logit(enter)))
            for after, after_exit, cooldown in itertools.product((0.0, 0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0), (0.0, 5.0, 10.0, 30.0)):
                yield {"view": view, "scoring": scoring, "background": background, "enter": enter, "exit": round(leave, 3),
                       "after": after, "after_exit": after_exit, "cooldown": cooldown}


def shown(choice):
    return " ".join(str(choice[key]) for key in ("view", "scoring", "background", "enter", "exit", "after", "after_exit", "cooldown"))


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vtagd", default=os.path.join(here, "target/release/vtagd"))
    parser.add_argument("--footage", default=os.path.join(here, "../shared/footage"))
    parser.add_argument("--keep", help="folder for the scores, so that they are made once")
    args = parser.parse_args()
    os.chdir(here)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, args.keep or folder)
        scores = {(clip, view): bench.scores(clip, view) for clip in bench.clips for view in VIEWS}
        bench.held_against_the_daemon(scores)
        table = []
        for choice in [TODAY, BEFORE, *choices()]:
            counted = {clip: bench.count(clip, bench.tags(clip, choice, scores)) for clip in bench.clips}
            table.append((sum(one[0] for one in counted.values()) / len(counted), choice, counted))
        minutes = bench.absent_minutes()

        def tell(name, mean, choice, counted):
            each = " ".join(f"{clip} {one[0]:.2f}" for clip, one in counted.items())
            strange = sum(one[4] for one in counted.values())
            print(f"{name}: {mean:.2f} ({each}); {strange} false tags in {minutes:.1f} minutes of absent labels; {shown(choice)}")

        tell("today", *table[0])
        tell("before", *table[1])
        # One thing changed at a time.
        for key in ("view", "scoring", "background", "enter", "after", "after_exit", "cooldown"):
            for mean, choice, counted in table[2:]:
                others = [name for name in TODAY if name not in (key, "exit")]
                if choice[key] != TODAY[key] and all(choice[name] == TODAY[name] for name in others) and (
                        abs(choice["exit"] - TODAY["exit"]) < 0.03 or (key == "enter" and abs(logit(choice["enter"]) - logit(choice["exit"]) - 1) < 0.02)):
                    tell(f"{key} alone", mean, choice, counted)
        for rank, row in enumerate(sorted(table, key=lambda row: -row[0])[:10], 1):
            tell(f"best {rank}", *row)
        # The curve of each scoring, view and background at its best.
        for view, scoring, background in itertools.product(VIEWS, ("exclusive", "independent"), ("given", "scenes")):
            rows = [row for row in table if (row[1]["view"], row[1]["scoring"], row[1]["background"]) == (view, scoring, background)]
            tell(f"best of {view} {scoring} {background}", *max(rows, key=lambda row: row[0]))
        out = {}
        for clip in bench.clips:
            def of_others(row):
                return sum(one[0] for other, one in row[2].items() if other != clip)
            best = max(of_others(row) for row in table)
            tied = [row for row in table if of_others(row) > best - 1e-9]
            # Of several that are as good, the mean: nothing says which one somebody would take.
            out[clip] = sum(row[2][clip][0] for row in tied) / len(tied)
            print(f"without {clip}: {len(tied)} choices, for example {shown(tied[0][1])}; it gets {out[clip]:.2f}")
        print(f"leave one clip out: {sum(out.values()) / len(out):.2f}")


if __name__ == "__main__":
    main()
