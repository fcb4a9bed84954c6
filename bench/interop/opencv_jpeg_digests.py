"""Prints the digests that pixels/tests/encode_jpeg.rs expects: what OpenCV writes for the same pixels.

    python bench/interop/opencv_jpeg_digests.py

Needs Python with opencv-python-headless (PyPI). Each line is a kind of picture, its size, and the first 16
hex digits of the sha256 over the JPEG files of qualities 1, 50, 75, 95 and 100, one after the other. The
pictures are integer arithmetic, the same in the test; 65,500 is the longest side that libjpeg writes.
"""

import hashlib

import cv2
import numpy as np

SIZES = [(1, 1), (1, 17), (17, 1), (8, 8), (15, 33), (64, 48), (65, 49), (333, 217), (65500, 1), (1, 65500)]


def picture(kind, width, height):
    index = np.arange(width * height * 3, dtype=np.uint64).reshape(height, width, 3)
    noise = ((index * 2654435761) & 0xFFFFFFFF) >> 24
    y, x, channel = np.indices((height, width, 3)).astype(np.uint64)
    if kind == "noise":
        values = noise
    elif kind == "black_or_white":
        values = (noise >> 7) * 255
    elif kind == "blocks":
        values = ((x // 16 + y // 16 + channel) % 2) * 255
    else:
        # Waves of another length in each channel, and noise of four bits.
        wave = ((x * (3 + channel) + y * (5 - channel)) & 511).astype(np.int64)
        values = np.abs(wave - 256) * 15 // 16 + (noise >> 4).astype(np.int64)
    return values.astype(np.uint8)


def main():
    print(cv2.__version__)
    for kind in ["noise", "black_or_white", "blocks", "waves"]:
        for width, height in SIZES:
            bgr = picture(kind, width, height)[:, :, ::-1]
            digest = hashlib.sha256()
            for quality in [1, 50, 75, 95, 100]:
                done, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
                assert done
                digest.update(file.tobytes())
            print(f'    ("{kind}", {width}, {height}, "{digest.hexdigest()[:16]}"),')


if __name__ == "__main__":
    main()
