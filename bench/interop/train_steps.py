"""open_clip's own training loop on the small model of `train/tests/small_training.rs`: prints the
literals of that test.

    cargo run --release -p clipmill-train --example small_start -- FOLDER
    python bench/interop/train_steps.py FOLDER

Needs torch, open_clip_torch and safetensors. f32, one thread, on the CPU.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from safetensors.torch import load_file

PASSES, BATCH, WARMUP, LR = 12, 6, 3, 1e-3
PROBES = [
    "logit_scale", "visual.conv1.weight", "visual.positional_embedding", "visual.proj",
    "visual.transformer.resblocks.1.mlp.c_fc.weight", "token_embedding.weight",
    "transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight", "text_projection",
]


def batch(number):
    i = torch.arange(3 * 16 * 16)
    row = torch.arange(BATCH)[:, None]
    pixels = ((number * 131 + row * 977 + i * 7919) % 2048).float() / 1024 - 1
    words = [(13 * row[:, 0] + 5 * j + number) % 60 + 1 for j in range(3)]
    full = lambda value: torch.full((BATCH,), value)
    tokens = torch.stack([full(62), *words, full(63), full(0), full(0), full(0)], 1)
    return pixels.view(BATCH, 3, 16, 16), tokens


class Loader:
    num_batches, num_samples = PASSES, PASSES * BATCH

    def __iter__(self):
        return (batch(i) for i in range(PASSES))


def decays(name, parameter):
    quiet = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    return not quiet


def run(folder, accum, clip):
    config = json.loads((folder / "config.json").read_text())
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], output_dict=True)
    model.load_state_dict(load_file(folder / "start.safetensors"))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    plain = ClipLoss()

    class Loss:
        def __call__(self, **inputs):
            out = plain(**inputs)
            losses.append(sum(out.values()).item())
            return out

    args = argparse.Namespace(
        device="cpu", precision="fp32", distill=False, accum_freq=accum, skip_scheduler=False,
        horovod=False, grad_clip_norm=clip, rank=0, local_rank=0, log_local=False, world_size=1,
        batch_size=BATCH, log_every_n_steps=1000, wandb=False, distributed=False,
    )
    data = {"train": types.SimpleNamespace(set_epoch=lambda epoch: None, dataloader=Loader())}
    scheduler = cosine_lr(optimizer, LR, WARMUP, PASSES // accum)
    train_one_epoch(model, data, Loss(), 0, optimizer, None, scheduler, None, args)
    print(f"accum {accum}, clip {clip}")
    print("  losses:", ", ".join(f"{value:.7f}" for value in losses[::accum]))
    for name in PROBES:
        flat = dict(named)[name].detach().flatten()
        picked = [flat[(7 * k) % len(flat)].item() for k in range(min(3, len(flat)))]
        print(f'  ("{name}", &[{", ".join(f"{value:.8f}" for value in picked)}]),')


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run(folder, 1, None)
    run(folder, 2, 1.0)
