"""The small numbers of models/tests/golden/{swin,vit}_tiny.json, from timm.

    pip install torch timm
    python bench/interop/timm_golden.py swin > models/tests/golden/swin_tiny.json
    python bench/interop/timm_golden.py vit > models/tests/golden/vit_tiny.json
    python bench/interop/timm_golden.py counts

A Swin whose grids are 10, 5 and 3 with windows of 4: padded, shifted, merged from an odd grid, and shrunk; and a plain ViT.
Weights, pixels and cotangent are formulas that the tests repeat; everything runs in f64. Of each gradient one number is kept: its
product with a fixed pattern. `counts` prints the parameters of the named models.
"""
import json
import sys

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

SWIN = {"img_size": 20, "patch_size": 2, "num_classes": 3, "embed_dim": 8, "depths": [2, 2, 2], "num_heads": [1, 2, 4],
        "window_size": 4, "mlp_ratio": 2.0, "qkv_bias": True}
VIT = {"img_size": 12, "patch_size": 4, "num_classes": 3, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0,
       "qkv_bias": True}
NAMED = [f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")]
NAMED += [f"{kind}_patch16_224" for kind in ("deit_tiny", "deit_small", "deit_base", "vit_large")]


def pattern(count, a, b, m):
    """((i·a + b) mod m) over 0..count, centred and scaled to -1..1"""
    half = m // 2
    return ((torch.arange(count) * a + b) % m - half).double() / half


def main(what):
    if what == "counts":
        for name in NAMED:
            print(name, sum(p.numel() for p in timm.create_model(name).parameters()))
        return
    config, make = {"swin": (SWIN, SwinTransformer), "vit": (VIT, VisionTransformer)}[what]
    model = make(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}, drop_path_rate=0.0).double().eval()
    params = dict(model.named_parameters())
    names = sorted(params)
    with torch.no_grad():
        for k, name in enumerate(names):
            p = params[name]
            v = pattern(p.numel(), 37, 101 * k, 201).reshape(p.shape)
            if p.ndim == 1:
                v = 0.3 * v + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif name.endswith("weight"):
                v = 1.5 * v / (p.numel() / p.shape[0]) ** 0.5
            p.copy_(v)
    side = config["img_size"]
    pixels = pattern(2 * 3 * side * side, 7919, 0, 2049).reshape(2, 3, side, side)
    logits = model(pixels)
    (logits * pattern(6, 13, 0, 7).reshape(2, 3)).sum().backward()
    grads = {name: (params[name].grad.flatten() * pattern(params[name].numel(), 29, 7, 11)).sum().item() for name in names}
    print(json.dumps({"timm": timm.__version__, "config": config, "logits": logits.flatten().tolist(), "grads": grads}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
