"""What `decode: {isolation: process}` costs a fetch: the same pictures from nginx on loopback, decoded in process and in workers.

    cargo build --release
    python bench/make_photos.py PHOTOS 4000
    python bench/isolation.py PHOTOS [--count 4000] [--rounds 3] [--clipmill target/release/clipmill]

Two threads for pictures, output in memory (/dev/shm) where there is such a folder; rounds of both take turns. Every
tar must be the same, byte for byte, else INVALID is printed and the exit code is 1. Then, for the best round of each: pictures
a second by the fetch stage's own seconds, CPU seconds of the run with its workers, and the largest resident size of one process.
"""
import argparse
import csv
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

from fetch_vs_img2dataset import serve

RECIPE = """version: 1
name: isolation
output: {out}
threads: 2
stages:
  - link_list: {{url_list: [{links}], caption_col: caption}}
  - fetch:
      image_size: 256
      resize_mode: keep_ratio
      resize_only_if_bigger: true
      number_sample_per_shard: 1000
      robots: false
      allow_loopback: ["127.0.0.1"]
      ports: [{port}]
      max_per_host: 32
      max_per_ip: 32
      thread_count: 32
      retries: 0
      decode: {{isolation: {isolation}, timeout: 10}}
"""


def run(program, recipe):
    """The stage's seconds, CPU seconds with children, largest resident MB of one process."""
    said, write = os.pipe()
    child = subprocess.Popen([program, "run", recipe, "--json"], stdout=write, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(said) as out:
        text = out.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"clipmill ended with {child.returncode}")
    stage = json.loads(text)["stages"][-1]
    return stage["info"]["seconds"], used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, stage["counts"]


def digests(out):
    tars = sorted(glob.glob(os.path.join(out, "fetch", "*.tar")))
    return [hashlib.sha256(open(tar, "rb").read()).hexdigest() for tar in tars]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--clipmill", default=os.path.join(target, "release", "clipmill"))
    args = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        server, port = serve(args.photos, folder)
        try:
            return measure(args, folder, port)
        finally:
            server.terminate()
            server.wait()


def measure(args, folder, port):
    names = sorted(name for name in os.listdir(args.photos) if name.endswith(".jpg"))[: args.count]
    links = os.path.join(folder, "links.csv")
    with open(links, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "caption"])
        rows.writerows([f"http://127.0.0.1:{port}/{name}", f"photograph {name}"] for name in names)
    best, made = {}, {}
    for _ in range(args.rounds):
        for isolation in ("none", "process"):
            out = os.path.join(folder, isolation)
            recipe = os.path.join(folder, f"{isolation}.yaml")
            with open(recipe, "w") as file:
                file.write(RECIPE.format(out=out, links=links, port=port, isolation=isolation))
            seconds, cpu, resident, counts = run(args.clipmill, recipe)
            if counts["kept"] != len(names):
                print(f"INVALID: {counts}")
                return 1
            digest = digests(out)
            if made.setdefault("tars", digest) != digest or not digest:
                print(f"INVALID: tars differ ({isolation})")
                return 1
            best[isolation] = min(best.get(isolation, (seconds, cpu, resident)), (seconds, cpu, resident))
            shutil.rmtree(out)
    print(f"{len(names)} pictures, {len(made['tars'])} tars, all equal byte for byte; best of {args.rounds} rounds")
    for isolation, (seconds, cpu, resident) in best.items():
        rate, each = len(names) / seconds, 1e3 * cpu / len(names)
        print(f"  {isolation:8} {rate:8.0f} pictures/s, {each:.2f} ms of CPU a picture, {resident:.0f} MB")
    print(f"  process / none: {best['none'][0] / best['process'][0]:.2f} of the speed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
