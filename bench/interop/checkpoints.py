"""Checkpoints that Python writes open here, and give the same features.

    cargo build --release -p clipmill-models --examples
    pip install open_clip_torch transformers
    python bench/interop/checkpoints.py [--features target/release/examples/features]

One random small CLIP (quick-gelu, image 32) is written as open_clip's state dict (`.pt`), as a training checkpoint with its
optimiser and `module.` names, in halves, as safetensors, as sharded safetensors, as TorchScript, as folders of both hubs, and by
Hugging Face's CLIPModel (whole, sharded, and as `pytorch_model.bin`). Each must give the features that Python computes from the
same weights (for halves, from the weights after rounding) to 1e-4 of the largest; above that, DIFFERENT and exit code 1. The
other way, open_clip opens what we wrote: see open_clip_loads_ours.py.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

CAPTIONS = ["a photo of a cat", "", "two dogs on a beach, at sunset", "Überraschung 🎉 1234"]
MODEL = {"embed_dim": 32, "quick_gelu": True,
         "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
         "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}}
HF = {"projection_dim": 32,
      "vision_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "image_size": 32, "patch_size": 8},
      "text_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "eos_token_id": 49407, "bos_token_id": 49406}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--features", default=os.path.join(target, "release", "examples", "features"))
    args = parser.parse_args()
    import numpy
    import open_clip
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(7)
    model = open_clip.CLIP(**{**MODEL, "vision_cfg": open_clip.CLIPVisionCfg(**MODEL["vision_cfg"]),
                              "text_cfg": open_clip.CLIPTextCfg(**MODEL["text_cfg"])}).eval()
    with torch.no_grad():  # beginnings of biases and norms are constant: shake them
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    tokens = open_clip.SimpleTokenizer()(CAPTIONS)
    pixels = (numpy.arange(4 * 3 * 32 * 32) * 7919 % 2048).astype(numpy.float32) / 1024 - 1
    pixels = torch.from_numpy(pixels.reshape(4, 3, 32, 32))

    def theirs(m):
        with torch.no_grad():
            return m.encode_image(pixels).float().numpy(), m.encode_text(tokens).float().numpy()

    failed = False

    def compare(what, source, expected, config=None):
        nonlocal failed
        with tempfile.TemporaryDirectory() as scratch:
            out = os.path.join(scratch, "features.f32")
            command = [args.features, source, out] + ([config] if config else [])
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                print(f"{what}: FAILED: {run.stderr.strip()}")
                failed = True
                return
            ours = numpy.fromfile(out, numpy.float32).reshape(2, 4, -1)
        worst = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(ours, expected))
        failed |= not worst <= 1e-4
        print(f"{what}: {worst:.1e}{'' if worst <= 1e-4 else ' DIFFERENT'} | {run.stderr.strip()}")

    with tempfile.TemporaryDirectory() as folder:
        def at(*parts):
            path = os.path.join(folder, *parts)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return path

        config = at("model.json")
        json.dump(MODEL, open(config, "w"))
        expected = theirs(model)
        torch.save(model.state_dict(), at("state.pt"))
        compare("torch.save of a state dict", at("state.pt"), expected, config)

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        sum(f.sum() for f in (model.encode_image(pixels), model.encode_text(tokens))).mul(0).backward()
        optimizer.step()
        expected = theirs(model)
        scaler = torch.amp.GradScaler("cpu")
        torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()},
                    "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "args": argparse.Namespace(lr=0.1),
                    "best": numpy.float64(0.5)}, at("epoch_3.pt"))
        compare("a training checkpoint", at("epoch_3.pt"), expected, config)
        state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
        save_file(state, at("w.safetensors"))
        compare("safetensors", at("w.safetensors"), expected, config)

        for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
            half = {k: v.to(dtype) for k, v in state.items()}
            torch.save(half, at(f"{name}.pt"))
            model.load_state_dict({k: v.float() for k, v in half.items()})
            compare(f"torch.save in {name}", at(f"{name}.pt"), theirs(model), config)
            save_file(half, at(f"{name}.safetensors"))
            compare(f"safetensors in {name}", at(f"{name}.safetensors"), theirs(model), config)
        model.load_state_dict(state)

        views = {k: (v.t().contiguous().t() if v.ndim == 2 else torch.cat([v.new_zeros(3, *v.shape[1:]), v])[3:] if v.ndim == 1 else v)
                 for k, v in state.items()}
        torch.save(views, at("views.pt"))
        compare("torch.save of transposed and offset views", at("views.pt"), expected, config)

        names, shards = sorted(state), {}
        for i, name in enumerate(names):
            shards.setdefault(f"model-{i % 3 + 1:05}-of-00003.safetensors", {})[name] = state[name]
        for name, part in shards.items():
            save_file(part, at("sharded", name))
        index = {"metadata": {}, "weight_map": {k: name for name, part in shards.items() for k in part}}
        json.dump(index, open(at("sharded", "model.safetensors.index.json"), "w"))
        compare("sharded safetensors", at("sharded", "model.safetensors.index.json"), expected, config)

        for name, write in (("open_clip_model.safetensors", save_file), ("open_clip_pytorch_model.bin", torch.save)):
            hub = name.split(".")[1]
            json.dump({"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                                                              "resize_mode": "shortest"}},
                      open(at(hub, "open_clip_config.json"), "w"))
            write(state, at(hub, name))
            compare(f"a hub folder with {name}", at(hub), expected)

        try:
            script = torch.jit.script(model)
        except Exception as error:  # noqa: BLE001: whatever a version of torch cannot script
            print("torch.jit.script:", str(error).splitlines()[0])
            script = torch.jit.trace_module(model, {"encode_image": pixels, "encode_text": tokens})
        script.save(at("script.pt"))
        compare("TorchScript", at("script.pt"), expected, config)
        script.half().save(at("script16.pt"))
        model.float()  # script and model share their parameters
        compare("TorchScript in f16, as OpenAI's", at("script16.pt"), theirs(model), config)

        old = at("old.pt")
        torch.save(state, old, _use_new_zipfile_serialization=False)
        run = subprocess.run([args.features, old, at("x"), config], capture_output=True, text=True)
        print(f"the format before torch 1.6: exit {run.returncode} | {run.stderr.strip()}")
        failed |= run.returncode == 0
        torch.save(model, at("whole.pt"))
        run = subprocess.run([args.features, at("whole.pt"), at("x"), config], capture_output=True, text=True)
        print(f"a pickled module: exit {run.returncode} | {run.stderr.strip()[:160]}...")
        failed |= run.returncode == 0

        try:
            import transformers
        except ImportError:
            print("transformers is not installed: Hugging Face's names are not compared")
            return failed
        torch.manual_seed(8)
        hf = transformers.CLIPModel(transformers.CLIPConfig(**HF)).eval()
        with torch.no_grad():
            for p in hf.parameters():
                p.add_(torch.randn_like(p) * 0.05)
            images, texts = hf.get_image_features(pixel_values=pixels), hf.get_text_features(input_ids=tokens)
        images, texts = (getattr(x, "pooler_output", x) for x in (images, texts))
        expected = images.numpy(), texts.numpy()
        hf.save_pretrained(at("hf", "x")[:-2])
        compare(f"Hugging Face CLIPModel (transformers {transformers.__version__})", at("hf"), expected)
        hf.save_pretrained(at("hfs", "x")[:-2], max_shard_size="1MB")
        compare(f"the same in {len([f for f in os.listdir(at('hfs')) if f.endswith('.safetensors')])} shards", at("hfs"), expected)
        whole = load_file(at("hf", "model.safetensors"))
        os.rename(at("hf", "model.safetensors"), at("hf", "gone"))
        torch.save(whole, at("hf", "pytorch_model.bin"))
        compare("the same as pytorch_model.bin", at("hf"), expected)
    print(f"open_clip {open_clip.__version__}, torch {torch.__version__}:", "DIFFERENT" if failed else "the same")
    return failed


if __name__ == "__main__":
    sys.exit(main())
