"""Writes N distinct JPEG photographs of about 0.2 megapixel, the same ones every time.

    python bench/make_photos.py OUT N [--megapixels 0.2] [--quality 90]

Needs Python with Pillow, scikit-image and scikit-learn (PyPI): the photographs are those two packages'
sample data. Each output is a crop of one of them (at least half of its area, sides 3:4 to 16:9), perhaps
mirrored, scaled to the size asked for within 15 %, and saved 4:2:0 as 00000.jpg and on. The names of OUT
say nothing about the source, so that a folder of 10,000 looks to a fetcher like 10,000 pictures.
"""

import argparse
import hashlib
import importlib.util
import os
import random

from PIL import Image

SOURCES = [
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/motorcycle_right.png"),
    ("skimage", "data/rocket.jpg"),
]


def photographs():
    for package, path in SOURCES:
        found = importlib.util.find_spec(package)
        if found is None:
            raise SystemExit(f"{package} is not installed: pip install scikit-image scikit-learn")
        path = os.path.join(found.submodule_search_locations[0], path)
        yield Image.open(path).convert("RGB")


def crop(photograph, draw, megapixels):
    width, height = photograph.size
    ratio = draw.uniform(3 / 4, 16 / 9)
    # The largest rectangle of this ratio, then half of the picture or more of it where it has that much.
    largest = min(width, height * ratio) * min(height, width / ratio)
    area = draw.uniform(min(largest, 0.5 * width * height), largest)
    crop_width, crop_height = int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)
    x, y = draw.randint(0, width - crop_width), draw.randint(0, height - crop_height)
    part = photograph.crop((x, y, x + crop_width, y + crop_height))
    if draw.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = megapixels * 1e6 * draw.uniform(0.85, 1.15)
    size = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
    return part.resize(size, Image.Resampling.LANCZOS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("count", type=int)
    parser.add_argument("--megapixels", type=float, default=0.2)
    parser.add_argument("--quality", type=int, default=90)
    options = parser.parse_args()

    os.makedirs(options.out, exist_ok=True)
    sources = list(photographs())
    draw = random.Random(0)
    seen = set()
    volume = 0
    for index in range(options.count):
        while True:
            part = crop(sources[index % len(sources)], draw, options.megapixels)
            digest = hashlib.sha256(part.tobytes()).digest()
            if digest not in seen:
                break
        seen.add(digest)
        path = os.path.join(options.out, f"{index:05}.jpg")
        part.save(path, quality=options.quality)
        volume += os.path.getsize(path)
    print(f"{options.count} photographs, {volume / max(options.count, 1) / 1000:.1f} kB on average, in {options.out}")


if __name__ == "__main__":
    main()
