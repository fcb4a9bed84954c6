"""timm's classifiers at their true size open here, and give the same scores.

    cargo build --release -p clipmill-models --examples
    pip install timm safetensors
    python bench/interop/timm_classifiers.py [NAME ...] [--classify target/release/examples/classify]

Each model gets random weights with shaken biases and norms, is written by timm as safetensors and by torch.save, and both files
must give timm's scores of made-up pictures to 1e-4 of the largest; above that, DIFFERENT and exit code 1. Prints pictures a second
of both sides with the same number of threads, best of three, batch 4.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

NAMES = ["swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224", "deit_small_patch16_224",
         "vit_base_patch16_224"]
BATCH = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--classify", default=os.path.join(target, "release", "examples", "classify"))
    args = parser.parse_args()
    import numpy
    import timm
    import torch
    from safetensors.torch import save_file

    failed = False
    pixels = (numpy.arange(BATCH * 3 * 224 * 224) * 7919 % 2048).astype(numpy.float32) / 1024 - 1
    pixels = torch.from_numpy(pixels.reshape(BATCH, 3, 224, 224))
    for name in args.names:
        torch.manual_seed(7)
        model = timm.create_model(name).eval()
        best = float("inf")
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.02)
            for _ in range(3):
                start = time.perf_counter()
                logits = model(pixels).numpy()
                best = min(best, time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as scratch:
            for file, write in (("w.safetensors", save_file), ("w.pt", torch.save)):
                path, out = os.path.join(scratch, file), os.path.join(scratch, "scores.f32")
                write(model.state_dict(), path)
                run = subprocess.run([args.classify, name, path, out, str(BATCH)], capture_output=True, text=True)
                if run.returncode:
                    print(f"{name} {file}: FAILED: {run.stderr.strip()}")
                    failed = True
                    continue
                ours = numpy.fromfile(out, numpy.float32).reshape(logits.shape)
                worst = float(abs(ours - logits).max() / abs(logits).max())
                failed |= not worst <= 1e-4
                print(f"{name} {file}: {worst:.1e} of the largest score{'' if worst <= 1e-4 else ' DIFFERENT'}; "
                      f"timm {BATCH / best:.1f} pictures a second | {' | '.join(run.stderr.strip().splitlines())}")
    print(f"timm {timm.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads:", "DIFFERENT" if failed else "the same")
    return failed


if __name__ == "__main__":
    sys.exit(main())
