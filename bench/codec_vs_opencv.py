"""Decode, resize and encode of a folder of JPEGs: clipmill's pixels and OpenCV in one go, one thread each.

    python bench/make_photos.py PHOTOS 64
    python bench/codec_vs_opencv.py PHOTOS [--image_size 256] [--mode keep_ratio] [--quality 95] [--rounds 9]

Needs Python with opencv-python-headless (PyPI); builds and runs pixels/examples/codec.rs. First both results
are compared: sizes, the resized pixels (each from its own decoder), the files that both encoders make of the
same pixels, and the final files. Where sizes differ or a picture is below --least dB it prints INVALID and
exits 1. Then milliseconds a picture: the best round of each picture, the mean over the pictures.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def best(rounds, work):
    shortest = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest * 1e3


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255 * 255 / error)


def size(shape, image_size, mode):
    """img2dataset's: both sides by one factor, halves to even."""
    height, width = shape[:2]
    side = min(width, height) if mode == "keep_ratio" else max(width, height)
    scale = image_size / float(side)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--mode", choices=["keep_ratio", "keep_ratio_largest"], default="keep_ratio")
    parser.add_argument("--quality", type=int, default=95)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--least", type=float, default=45.0, help="dB between both resized pictures")
    parser.add_argument("--binary", help="a built example `codec`, instead of building it")
    options = parser.parse_args()
    cv2.setNumThreads(1)

    binary = options.binary
    if binary is None:
        build = ["cargo", "build", "--release", "--locked", "-p", "clipmill-pixels", "--example", "codec"]
        subprocess.run(build, cwd=ROOT, check=True)
        binary = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release/examples/codec")

    quality = [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    theirs = np.zeros(3)
    resized, final, equal, volume = [], [], 0, 0
    with tempfile.TemporaryDirectory() as out:
        command = [binary, options.folder, "--image_size", str(options.image_size), "--mode", options.mode]
        command += ["--quality", str(options.quality), "--rounds", str(options.rounds), "--write", out]
        ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

        paths = sorted(glob.glob(os.path.join(options.folder, "*.jpg")))
        for path in paths:
            name = os.path.join(out, os.path.splitext(os.path.basename(path))[0])
            file = np.fromfile(path, np.uint8)
            picture = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
            to = size(picture.shape, options.image_size, options.mode)
            shrinks = to[0] <= picture.shape[1] and to[1] <= picture.shape[0]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
            small = cv2.resize(picture, to, interpolation=method)
            our_small, our_file = cv2.imread(name + ".ppm"), np.fromfile(name + ".jpg", np.uint8)
            if our_small.shape != small.shape:
                sys.exit(f"INVALID: {path}: ours is {our_small.shape}, OpenCV's {small.shape}")
            their_file = cv2.imencode(".jpg", small, quality)[1]
            volume += len(their_file)
            resized.append(psnr(our_small, small))
            final.append(psnr(cv2.imdecode(our_file, cv2.IMREAD_COLOR), cv2.imdecode(their_file, cv2.IMREAD_COLOR)))
            equal += np.array_equal(our_file, cv2.imencode(".jpg", our_small, quality)[1].ravel())

            theirs[0] += best(options.rounds, lambda: cv2.imdecode(file, cv2.IMREAD_UNCHANGED))
            theirs[1] += best(options.rounds, lambda: cv2.resize(picture, to, interpolation=method))
            theirs[2] += best(options.rounds, lambda: cv2.imencode(".jpg", small, quality))

    print(f"{len(paths)} pictures, {ours['pixels_in'] / len(paths) / 1e6:.3f} to {ours['pixels_out'] / len(paths) / 1e6:.3f} megapixel, OpenCV {cv2.__version__}")
    print(f"resized pixels, each from its own decoder: least {min(resized):.1f} dB, mean {np.mean(resized):.1f} dB")
    print(f"final files: least {min(final):.1f} dB, mean {np.mean(final):.1f} dB; {ours['bytes_out']} and {volume} bytes")
    print(f"files of the same pixels: {equal} of {len(paths)} equal, byte for byte")
    if len(paths) != ours["pictures"] or min(resized) < options.least:
        sys.exit("INVALID: the pictures differ")
    print(f"{'ms a picture':14}{'clipmill':>10}{'OpenCV':>10}{'ratio':>8}")
    rows = [("decode", ours["decode_ms"]), ("resize", ours["resize_ms"]), ("encode", ours["encode_ms"])]
    rows = [(*row, their / len(paths)) for row, their in zip(rows, theirs)]
    rows.append(("all three", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    # Decode and resize in one, large pictures decoded at a smaller scale.
    rows.append(("scaled decode", ours["scaled_ms"] + ours["encode_ms"], rows[-1][2]))
    for name, our, their in rows:
        print(f"{name:14}{our:10.3f}{their:10.3f}{their / our:8.2f}")


if __name__ == "__main__":
    main()
