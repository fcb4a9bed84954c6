"""Resharding a part of a pool: clipmill against DataComp's resharder, two workers each, in one go.

    cargo build --release
    git clone https://github.com/mlfoundations/datacomp DATACOMP
    pip install numpy opencv-python-headless pyarrow pysimdjson tqdm "webdataset==0.2.48" cloudpathlib img2dataset
    python bench/make_photos.py PHOTOS 2000
    python bench/reshard_vs_datacomp.py PHOTOS DATACOMP/resharder.py [--samples 20000] [--share 0.5] [--rounds 2]

A pool of img2dataset's layout is made first (each photograph under several uids, 1,000 samples a shard), and a subset file
with a share of its uids. Everything lies in memory (/dev/shm) where there is one. Both outputs must hold the same members
with the same bytes; else INVALID is printed and the exit code is 1.
"""
import argparse
import glob
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time


def make_pool(photos, folder, samples):
    """Shards as img2dataset writes them; gives the uids."""
    names = sorted(name for name in os.listdir(photos) if name.endswith(".jpg"))
    pictures = [open(os.path.join(photos, name), "rb").read() for name in names]
    uids = []
    for shard in range((samples + 999) // 1000):
        count = min(1000, samples - shard * 1000)
        with tarfile.open(os.path.join(folder, f"{shard:08d}.tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(count):
                key = f"{shard:08d}{number:04d}"
                picture = pictures[(shard * 1000 + number) % len(pictures)]
                caption = f"photograph number {key} of the pool"
                uid = hashlib.md5(caption.encode()).hexdigest()
                uids.append(uid)
                about = {"uid": uid, "key": key, "status": "success", "error_message": None, "width": 512, "height": 400,
                         "url": f"http://a.example/{key}.jpg", "caption": caption, "original_width": 512,
                         "original_height": 400, "sha256": hashlib.sha256(picture).hexdigest()}
                for suffix, data in (("jpg", picture), ("json", json.dumps(about).encode()), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        with open(os.path.join(folder, f"{shard:08d}_stats.json"), "w") as file:
            json.dump({"successes": count}, file)
    return uids


def members(folder):
    """Digest of each member by its name, over all shards."""
    found = {}
    for path in glob.glob(os.path.join(folder, "*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name in found:
                    raise SystemExit(f"INVALID: {member.name} stands twice")
                found[member.name] = hashlib.sha256(tar.extractfile(member).read()).digest()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("resharder")
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=2)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--clipmill", default=os.path.join(target, "release", "clipmill"))
    parser.add_argument("--python", help="the Python that runs the resharder, if another one")
    args = parser.parse_args()
    import numpy

    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        pool, ours, theirs = (os.path.join(folder, name) for name in ("pool", "ours", "theirs"))
        os.mkdir(pool)
        uids = make_pool(args.photos, pool, args.samples)
        chosen = sorted(random.Random(0).sample(uids, int(len(uids) * args.share)))
        rows = numpy.array([(int(u[:16], 16), int(u[16:], 16)) for u in chosen], numpy.dtype("u8,u8"))
        subset = os.path.join(folder, "subset.npy")
        numpy.save(subset, rows)
        size = sum(os.path.getsize(path) for path in glob.glob(os.path.join(pool, "*.tar"))) / 1e6
        commands = {
            "clipmill": [args.clipmill, "reshard", "--urls", f"[{pool}]", "--subset", subset, "--output", ours, "--threads", "2"],
            "datacomp": [args.python or sys.executable, args.resharder, "-i", pool, "-o", theirs, "-s", subset, "-j", "2", "-q"],
        }
        best = {}
        for _ in range(args.rounds):
            for name, command in commands.items():
                shutil.rmtree(ours if name == "clipmill" else theirs, ignore_errors=True)
                if name == "datacomp":
                    os.mkdir(theirs)
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True)
                seconds = time.perf_counter() - start
                if done.returncode != 0:
                    print(f"INVALID: {name}: {done.stderr[-2000:]}")
                    return 1
                best[name] = min(best.get(name, seconds), seconds)
        a, b = members(os.path.join(ours, "reshard")), members(theirs)
        if a != b:
            print(f"INVALID: {len(a)} members against {len(b)}, {sum(a.get(name) == digest for name, digest in b.items())} equal")
            return 1
        print(f"{args.samples} samples ({size:.0f} MB), {len(chosen)} chosen: the same {len(a)} members with the same bytes")
        for name, seconds in best.items():
            print(f"{name}: {seconds:.2f} s, {args.samples / seconds:.0f} input samples/s, start-up included (best of {args.rounds})")
        print(f"times the peer: {best['datacomp'] / best['clipmill']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
