#!/usr/bin/env python3
"""Makes the demo clip: real photographs under a slow camera move, as a small H.264 MP4.

In:  a scikit-image 0.17.2 wheel (only its sample pictures are read).
Out: clip.mp4 (1280x720, 25 frames/s, a key frame every 2 s, no B-frames) and clip-licences.txt.

Each picture is shown for eight seconds, a whole number of GOPs, so the clip also loops cleanly. Frames are drawn by
Pillow and encoded by GStreamer, which the daemon needs anyway.

Usage: demo_clip.py WHEEL OUT_FOLDER
"""
import io
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass

from PIL import Image

WIDTH, HEIGHT, RATE = 1280, 720, 25
SECONDS_PER_PICTURE = 8
GOP = 2 * RATE


@dataclass(frozen=True)
class Window:
    """A 16:9 window into a picture: its centre and width, as parts of the picture's size."""

    x: float
    y: float
    width: float

    def towards(self, other, part):
        def mix(a, b):
            return a + (b - a) * part

        return Window(mix(self.x, other.x), mix(self.y, other.y), mix(self.width, other.width))


@dataclass(frozen=True)
class Shot:
    member: str  # file in the wheel, under skimage/data/
    title: str
    licence: str  # as the wheel's own skimage/data/__init__.py states it
    start: Window
    end: Window


# The motorcycle of the same package is left out: the package states no licence for it.
SHOTS = [
    Shot("chelsea.png", "Chelsea the cat, by Stefan van der Walt", "CC0 by the photographer",
         Window(0.50, 0.50, 1.00), Window(0.50, 0.42, 0.70)),
    Shot("coffee.png", "A cup of coffee, by Rachel Michetti (courtesy of Pikolo Espresso Bar)", "CC0 by the photographer",
         Window(0.45, 0.45, 0.75), Window(0.50, 0.50, 1.00)),
    Shot("rocket.jpg", "Falcon 9 lifts off with DSCOVR, by SpaceX", "released into the public domain by SpaceX",
         Window(0.50, 0.50, 1.00), Window(0.50, 0.45, 0.80)),
    Shot("astronaut.png", "Eileen Collins, by NASA", "public domain, no known copyright restrictions",
         Window(0.44, 0.20, 0.60), Window(0.44, 0.26, 0.80)),
]


def frame(picture, window):
    """The window's part of the picture at the clip's size; sub-pixel windows make the move smooth."""
    width = min(window.width * picture.width, picture.height * WIDTH / HEIGHT)
    height = width * HEIGHT / WIDTH
    left = min(max(window.x * picture.width - width / 2, 0), picture.width - width)
    top = min(max(window.y * picture.height - height / 2, 0), picture.height - height)
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def encoder(out):
    """A GStreamer process that takes raw RGB frames on its standard input."""
    return subprocess.Popen(
        ["gst-launch-1.0", "-q", "-e",
         "fdsrc", "fd=0", "!",
         "rawvideoparse", "format=rgb", f"width={WIDTH}", f"height={HEIGHT}", f"framerate={RATE}/1", "!",
         "videoconvert", "!", "video/x-raw,format=I420,colorimetry=bt709", "!",
         "x264enc", f"key-int-max={GOP}", "bframes=0", "pass=qual", "quantizer=24", "speed-preset=fast",
         "option-string=scenecut=0:open-gop=0", "!",
         "h264parse", "!", "mp4mux", "faststart=true", "!", "filesink", f"location={out}"],
        stdin=subprocess.PIPE)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    wheel, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    frames = RATE * SECONDS_PER_PICTURE
    gst = encoder(os.path.join(out, "clip.mp4"))
    try:
        with zipfile.ZipFile(wheel) as files:
            for number, shot in enumerate(SHOTS, 1):
                print(f"demo clip: picture {number} of {len(SHOTS)}: {shot.title}", flush=True)
                picture = Image.open(io.BytesIO(files.read(f"skimage/data/{shot.member}"))).convert("RGB")
                for i in range(frames):
                    gst.stdin.write(frame(picture, shot.start.towards(shot.end, i / (frames - 1))).tobytes())
        gst.stdin.close()
    except BrokenPipeError:
        sys.exit("demo clip: the encoder stopped early: is there room on the disk, and is gstreamer1.0-plugins-ugly installed?")
    if gst.wait() != 0:
        sys.exit("demo clip: the encoder failed: is there room on the disk, and is gstreamer1.0-plugins-ugly installed?")
    with open(os.path.join(out, "clip-licences.txt"), "w", encoding="utf-8") as f:
        f.write("The pictures of clip.mp4 come from scikit-image 0.17.2, whose documentation states for each:\n\n")
        f.writelines(f"- {shot.member}: {shot.title}. {shot.licence[0].upper()}{shot.licence[1:]}.\n" for shot in SHOTS)


if __name__ == "__main__":
    main()
