"""Pictures a second of an image tower: clipmill, onnxruntime on the exported tower, torch; same weights and pictures.

    cargo build --release --locked -p clipmill-models -p clipmill-kernels --example tower
    pip install torch open_clip_torch timm onnx onnxscript onnxruntime
    python bench/embed_vs_onnxruntime.py target/release/examples/tower [--models ViT-B-32,ViTamin-S]

All sides' features must agree first: f32 within 1e-3 of the largest number, bf16 with a cosine of at
least 0.999 to torch's f32; else INVALID is printed and no figure of that side. The sides take turns;
the figure is the median pass of a side's best turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy
import onnxruntime
import open_clip
import torch
from safetensors.torch import save_file

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--models", default="ViT-B-32,ViTamin-S")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--passes", type=int, default=6)
parser.add_argument("--turns", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
a = parser.parse_args()
torch.set_num_threads(a.threads)
torch.manual_seed(0)


def passes(run):
    run()
    seconds = []
    for _ in range(a.passes):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def cosine(x, y):
    x, y = (v / numpy.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    return float((x * y).sum(axis=1).min())


class Tower(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.visual = model.visual

    def forward(self, pixels):
        return self.visual(pixels)


def sides(name, folder):
    model = open_clip.create_model(name, precision="fp32").eval()
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    pixels = torch.randn(a.batch, 3, size, size)
    state = {n: t.contiguous() for n, t in model.state_dict().items() if n != "attn_mask"}
    save_file(state, f"{folder}/weights.safetensors")
    save_file({"pixels": pixels}, f"{folder}/pixels.safetensors")
    torch.onnx.export(Tower(model), (pixels,), f"{folder}/tower.onnx", input_names=["pixels"], dynamo=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = a.threads
    session = onnxruntime.InferenceSession(f"{folder}/tower.onnx", options, providers=["CPUExecutionProvider"])
    half = open_clip.create_model(name, precision="pure_bf16").eval()
    half.load_state_dict(model.state_dict())
    half_pixels = pixels.bfloat16()

    def eager(model, pixels):
        def run():
            with torch.inference_mode():
                return model.encode_image(pixels)
        return lambda: (run().float().numpy(), passes(run))

    def onnx():
        run = lambda: session.run(None, {"pixels": pixels.numpy()})[0]
        return run(), passes(run)

    def ours(*extra):
        def run():
            out = f"{folder}/features.f32"
            files = [f"{folder}/weights.safetensors", f"{folder}/pixels.safetensors", out]
            env = dict(os.environ, RAYON_NUM_THREADS=str(a.threads))
            told = subprocess.run([a.binary, name, *files, str(a.passes), *extra],
                                  env=env, check=True, capture_output=True, text=True).stdout
            return numpy.fromfile(out, dtype="<f4").reshape(a.batch, -1), json.loads(told)
        return run

    return {
        "torch f32": eager(model, pixels),
        "onnxruntime f32": onnx,
        "clipmill f32": ours(),
        "torch pure bf16": eager(half, half_pixels),
        "clipmill bf16 weights": ours("bf16"),
    }


for name in a.models.split(","):
    with tempfile.TemporaryDirectory() as folder:
        reference, best, verdicts = None, {}, {}
        runs = sides(name, folder)
        for _ in range(a.turns):
            for side, run in runs.items():
                features, seconds = run()
                reference = features if reference is None else reference
                difference = float(abs(features - reference).max() / abs(reference).max())
                alike = cosine(features, reference)
                verdicts[side] = (difference <= 1e-3 if "f32" in side else alike >= 0.999, difference, alike)
                best[side] = min(best.get(side, float("inf")), statistics.median(seconds))
        for side, seconds in best.items():
            equal, difference, alike = verdicts[side]
            speed = f"{a.batch / seconds:.1f} pictures/s" if equal else "INVALID"
            print(f"{name} batch {a.batch}, {a.threads} threads, {side}: {speed} "
                  f"(difference {difference:.1e}, cosine {alike:.5f})", flush=True)
