"""What models/src/hub/preprocessor.rs makes of a preprocessor_config.json, recomputed with Pillow, beside transformers' own pixels.

    pip install transformers torch torchvision pillow numpy
    python bench/interop/clip_image_processor.py

Seven configurations at 64 pixels, four pictures of noise; largest difference, of the largest number, for the processor on Pillow
and for the one on torchvision, which resizes tensors and rounds otherwise.
"""
import numpy as np
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SQUARE = {"height": SIDE, "width": SIDE}
# Fields; then resize mode, 255 times the factor, and whether it normalises.
CASES = {
    "shorter side and crop": (dict(size={"shortest_edge": SIDE}, crop_size=SQUARE), "shortest", 1, True),
    "both sides": (dict(size=SQUARE, do_center_crop=False), "squash", 1, True),
    "a list of both": (dict(size=[SIDE, SIDE], crop_size=SQUARE), "squash", 1, True),
    "no normalisation": (dict(size=SIDE, crop_size=SIDE, do_normalize=False), "shortest", 1, False),
    "another factor": (dict(size=SIDE, crop_size=SIDE, rescale_factor=1 / 127.5), "shortest", 2, True),
    "no factor": (dict(size=SIDE, crop_size=SIDE, do_rescale=False), "shortest", 255, True),
    "neither": (dict(size=SIDE, crop_size=SIDE, do_rescale=False, do_normalize=False), "shortest", 255, False),
}


def ours(picture, mode, mean, std):
    width, height = picture.size
    if mode == "squash":
        picture = picture.resize((SIDE, SIDE), Image.BICUBIC)
    else:
        size = (SIDE, int(SIDE * height / width)) if width <= height else (int(SIDE * width / height), SIDE)
        left, top = (round((side - SIDE) / 2) for side in size)
        picture = picture.resize(size, Image.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    return ((np.asarray(picture).astype(np.float64) / 255 - mean) / std).transpose(2, 0, 1)


noise = np.random.default_rng(3)
pictures = [Image.fromarray(noise.integers(0, 256, (h, w, 3)).astype(np.uint8)) for w, h in [(90, 70), (70, 90), (64, 64), (131, 80)]]
for name, (fields, mode, times, normal) in CASES.items():
    mean = np.array(MEAN if normal else (0, 0, 0)) / times
    std = np.array(STD if normal else (1, 1, 1)) / times
    for processor in (CLIPImageProcessorPil, CLIPImageProcessor):
        worst = 0
        for picture in pictures:
            theirs = np.asarray(processor(**fields)([picture], return_tensors="np")["pixel_values"])[0]
            expected = ours(picture, mode, mean, std)
            worst = max(worst, abs(theirs - expected).max() / abs(expected).max())
        print(f"{name:24} {processor.__name__:24} {worst:.2g}")
