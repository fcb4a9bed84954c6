"""Reading WebDataset shards decoded to 224 px, normalised (open_clip's evaluation transform): clipmill against webdataset
with torchvision and with Pillow, in one go.

    cargo build --release -p clipmill --example decode_shards
    pip install webdataset torch torchvision pillow
    python bench/make_photos.py PHOTOS 2000
    python bench/decode_shards.py PHOTOS [--workers 2] [--runs 3]

Shards of 500 pictures are made of the folder's JPEGs first. The squares of the first 16 pictures must agree with Pillow's,
which are open_clip's own: PSNR at least 40 dB on the 8-bit values; else INVALID is printed and the exit code is 1. The PSNR of torchvision's
tensor pipeline is shown beside it. Each worker takes every nth shard and makes batches of 64; peers do so in webdataset's
own loader processes. Medians of --runs passes after one warm-up pass.
"""
import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time


def make_shards(photos, folder):
    names = sorted(name for name in os.listdir(photos) if name.endswith(".jpg"))
    paths = []
    for start in range(0, len(names), 500):
        path = os.path.join(folder, f"{start // 500:05d}.tar")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in names[start:start + 500]:
                with open(os.path.join(photos, name), "rb") as file:
                    picture = file.read()
                for suffix, data in (("jpg", picture), ("txt", b"a photograph")):
                    member = tarfile.TarInfo(f"{name[:-4]}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        paths.append(path)
    return paths, len(names)


def psnr(a, b):
    import numpy

    error = ((a.astype(numpy.float64) - b) ** 2).mean()
    return 99.0 if error == 0 else 10 * numpy.log10(255**2 / error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--binary", default=os.path.join(target, "release", "examples", "decode_shards"))
    args = parser.parse_args()
    import numpy
    import torch
    import torchvision
    import webdataset as wds
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor, v2

    torch.set_num_threads(1)  # as in a loader's worker
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    bicubic = InterpolationMode.BICUBIC
    pil = Compose([Resize(224, bicubic), CenterCrop(224), ToTensor(), Normalize(mean, std)])
    tensor = Compose([v2.Resize(224, bicubic, antialias=True), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True),
                      v2.Normalize(mean, std)])

    def of_tensor(data):
        return tensor(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB))

    def batches(case, urls):
        data = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
        if case == "torchvision":
            data = data.to_tuple("jpg").map_tuple(of_tensor)
        else:
            data = data.decode("pilrgb").to_tuple("jpg").map_tuple(pil)
        return data.batched(64)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        urls, count = make_shards(args.photos, folder)
        dump = os.path.join(folder, "squares.f32")
        command = [args.binary, "--threads", str(args.workers), "--runs", str(args.runs + 1), "--dump", dump] + urls
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        seconds = {"clipmill": result["seconds"][1:]}
        for case in ("torchvision", "pil"):
            loader = wds.WebLoader(batches(case, urls), batch_size=None, num_workers=args.workers)
            spent = []
            for _ in range(args.runs + 1):
                start = time.perf_counter()
                seen = sum(len(batch[0]) for batch in loader)
                spent.append(time.perf_counter() - start)
                if seen != count or result["samples"] != count:
                    print(f"INVALID: {seen} samples by {case}, {result['samples']} by clipmill, {count} there are")
                    return 1
            seconds[case] = spent[1:]
        scale, shift = numpy.array(std).reshape(3, 1, 1) * 255, numpy.array(mean).reshape(3, 1, 1) * 255
        first = {case: next(iter(batches(case, urls[:1])))[0][:16].numpy() * scale + shift for case in ("torchvision", "pil")}
        ours = numpy.fromfile(dump, numpy.float32).reshape(16, 3, 224, 224) * scale + shift
        agree = psnr(ours, first["pil"])
        print(f"{count} pictures; PSNR against Pillow's squares: clipmill {agree:.1f} dB, "
              f"torchvision {psnr(first['torchvision'], first['pil']):.1f} dB")
        if agree < 40:
            print("INVALID: the squares differ")
            return 1
        print(f"webdataset {wds.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, {args.workers} workers")
        for case, spent in seconds.items():
            rate = count / statistics.median(spent)
            print(f"{case}: {rate:.0f} samples/s ({count / max(spent):.0f}-{count / min(spent):.0f})")
        ours = statistics.median(seconds["clipmill"])
        print(f"times torchvision: {statistics.median(seconds['torchvision']) / ours:.2f}, times Pillow: {statistics.median(seconds['pil']) / ours:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
