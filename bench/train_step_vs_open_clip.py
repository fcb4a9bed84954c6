"""Whole training steps of open_clip and of clipmill from the same weights on the same batch.

    cargo build --release --locked -p clipmill-train -p clipmill --example train_step
    python bench/train_step_vs_open_clip.py target/release/examples/train_step [--model ViT-B-32]

Needs torch and open_clip_torch. A step is both towers, loss, backward pass, AdamW with open_clip's
decay rule; the losses of all steps must agree, else INVALID is printed. Captions are `full` (all 77
places, as random tokens make them) and `web` (6 to 29 tokens). Medians of the steps after the first two.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import open_clip
import torch
from safetensors.torch import save_file

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--model", default="ViT-B-32")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--captions", default="full,web")
parser.add_argument("--bf16", action="store_true", help="open_clip's amp_bf16 and ours, beside f32")
parser.add_argument("--device", default="cpu", help="cuda: a binary built with `--features cuda`")
a = parser.parse_args()
torch.set_num_threads(a.threads)
torch.manual_seed(0)
gpu = a.device == "cuda"
where = torch.cuda.get_device_name() if gpu else f"{a.threads} threads"


def decays(name, p):
    return p.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def theirs(state, pixels, tokens, half):
    model = open_clip.create_model(a.model, precision="fp32")
    model.load_state_dict(state)
    model.to(a.device).train()
    pixels, tokens = pixels.to(a.device), tokens.to(a.device)
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
            {"params": [p for n, p in named if decays(n, p)], "weight_decay": 0.2},
        ],
        lr=1e-5, betas=(0.9, 0.98), eps=1e-6, fused=gpu,
    )
    loss_of = open_clip.ClipLoss()
    losses, seconds = [], []
    for _ in range(a.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=half):
            image, text, scale = model(pixels, tokens)[:3]
            loss = loss_of(image, text, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        losses.append(loss.item())  # waits for a GPU, as our step does
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def ours(folder, extra):
    env = dict(os.environ, RAYON_NUM_THREADS=str(a.threads))
    files = [os.path.join(folder, name) for name in ("weights.safetensors", "batch.safetensors")]
    done = subprocess.run([a.binary, a.model, *files, str(a.steps), *extra,
                           *(["cuda"] if gpu else [])],
                          env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"INVALID: {a.binary} failed: {done.stderr.strip()}")
    got = json.loads(done.stdout)
    return got["losses"], got["seconds"]


model = open_clip.create_model(a.model, precision="fp32")
state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "attn_mask"}
size = model.visual.image_size
size = size[0] if isinstance(size, tuple) else size
context = model.context_length
pixels = torch.randn(a.batch, 3, size, size)
for kind in a.captions.split(","):
    tokens = torch.zeros(a.batch, context, dtype=torch.long)
    for i in range(a.batch):
        length = context if kind == "full" else 6 + 7 * i % 24
        tokens[i, :length] = torch.randint(1, 49000, (length,))
        tokens[i, 0], tokens[i, length - 1] = 49406, 49407
    with tempfile.TemporaryDirectory() as folder:
        save_file({n: t.contiguous() for n, t in state.items()}, f"{folder}/weights.safetensors")
        save_file({"pixels": pixels, "tokens": tokens.to(torch.int64)}, f"{folder}/batch.safetensors")
        cases = [("f32", False, [], 2e-4)]
        if a.bf16:
            cases.append(("bf16", True, ["bf16"], 3e-2))
        for name, half, extra, tolerance in cases:
            ours_losses, ours_seconds = ours(folder, extra)
            their_losses, their_seconds = theirs(state, pixels, tokens, half)
            worst = max(abs(x - y) for x, y in zip(ours_losses, their_losses))
            ours_median = statistics.median(ours_seconds[2:])
            their_median = statistics.median(their_seconds[2:])
            verdict = "equal" if worst <= tolerance else "INVALID"
            print(f"{a.model} {name} {kind} captions, batch {a.batch}, {where}: "
                  f"{verdict}, losses differ by {worst:.1e} at most; "
                  f"clipmill {a.batch / ours_median:.2f} samples/s, "
                  f"open_clip {a.batch / their_median:.2f}, times {their_median / ours_median:.2f}",
                  flush=True)
            print("   losses", [round(x, 5) for x in ours_losses[:4]],
                  [round(x, 5) for x in their_losses[:4]], flush=True)
