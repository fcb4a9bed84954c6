"""How many JPEGs of a folder clipmill decodes to the very pixels of OpenCV and of Pillow (both libjpeg-turbo).

    cargo build --release -p clipmill-pixels --example verdicts
    python bench/interop/opencv_jpeg_pixels.py FOLDER... [--verdicts target/release/examples/verdicts]

Needs Python with opencv-python-headless and Pillow (PyPI). Every file that begins as a JPEG does is decoded by all
three, without turning it; the sha256 of the RGB bytes is compared. Prints the counts and the files that differ.
"""

import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
from PIL import Image

FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def digest(rgb):
    return hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()[:16]


def peers(path):
    bgr = cv2.imread(path, FLAGS)
    yield "OpenCV", None if bgr is None else digest(bgr[:, :, ::-1])
    try:
        with Image.open(path) as picture:
            yield "Pillow", digest(np.asarray(picture.convert("RGB")))
    except Exception:
        yield "Pillow", None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--verdicts", default=os.path.join(target, "release/examples/verdicts"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for folder in options.folders:
        lines = subprocess.run([options.verdicts, folder], check=True, stdout=subprocess.PIPE, text=True).stdout
        counts = collections.Counter()
        for verdict in map(json.loads, lines.splitlines()):
            path = os.path.join(folder, verdict["file"])
            with open(path, "rb") as file:
                if file.read(3) != b"\xff\xd8\xff":
                    continue
            for peer, theirs in peers(path):
                ours = verdict.get("rgb_sha256")
                kind = "equal" if ours == theirs else "differ" if ours and theirs else "only one decodes"
                counts[peer, kind if ours or theirs else "none decodes"] += 1
                if kind == "differ":
                    print(f"{peer}: {verdict['file']} differs")
        print(f"{folder}: " + ", ".join(f"{peer} {kind} {count}" for (peer, kind), count in sorted(counts.items())))


if __name__ == "__main__":
    sys.exit(main())
