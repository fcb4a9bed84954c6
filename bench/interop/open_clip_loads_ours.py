"""open_clip opens a checkpoint that clipmill trained, and gives the same features.

    cargo build --release -p clipmill -p clipmill-models --examples --bins
    clipmill train --model tiny-32 --data SHARD.tar --steps 20 --batch_size 64 --output trained
    pip install open_clip_torch
    python bench/interop/open_clip_loads_ours.py trained/train [--features target/release/examples/features]

The folder is opened by open_clip's `local-dir:` schema, which reads `open_clip_config.json` and the safetensors in it. Both sides
get the same made-up pixels and the same captions. Prints the largest difference of the features, relative to the largest
feature; above 1e-4 it prints DIFFERENT and the exit code is 1.
"""
import argparse
import os
import subprocess
import sys
import tempfile

CAPTIONS = ["a photo of a cat", "", "two dogs on a beach, at sunset", "Überraschung 🎉 1234"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--features", default=os.path.join(target, "release", "examples", "features"))
    args = parser.parse_args()
    import numpy
    import open_clip
    import torch

    folder = os.path.abspath(args.checkpoint)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    size = model.visual.image_size
    size = size[0] if isinstance(size, (tuple, list)) else size
    count = len(CAPTIONS) * 3 * size * size
    pixels = (numpy.arange(count) * 7919 % 2048).astype(numpy.float32) / 1024 - 1
    with torch.no_grad():
        images = model.encode_image(torch.from_numpy(pixels.reshape(len(CAPTIONS), 3, size, size))).numpy()
        texts = model.encode_text(tokenizer(CAPTIONS)).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "features.f32")
        subprocess.run([args.features, folder, out], check=True)
        ours = numpy.fromfile(out, numpy.float32).reshape(2, len(CAPTIONS), -1)
    worst = 0.0
    for name, mine, theirs in (("image", ours[0], images), ("text", ours[1], texts)):
        difference = float(abs(mine - theirs).max() / abs(theirs).max())
        worst = max(worst, difference)
        print(f"{name} features {theirs.shape}: largest difference {difference:.1e} of the largest feature")
    print(f"open_clip {open_clip.__version__}, torch {torch.__version__}: " + ("the same" if worst <= 1e-4 else "DIFFERENT"))
    return 0 if worst <= 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
