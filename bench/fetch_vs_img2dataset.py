"""Fetching, resizing and sharding: clipmill against img2dataset, the same pictures from nginx on loopback, in one go.

    cargo build --release
    pip install img2dataset scikit-image scikit-learn     # in an environment of their own; nginx must be installed
    python bench/make_photos.py PHOTOS 4000
    python bench/fetch_vs_img2dataset.py PHOTOS [--size 256] [--mode keep_ratio] [--rounds 2] [--clipmill target/release/clipmill]

Both fetch the same list, with two processes (or threads) for pictures and 32 connections (img2dataset: 32 threads a process), into a folder in memory
(/dev/shm) where there is one. First the result: every picture must be there under the same url with the same width and
height, and the PSNR between both decoded pictures at least 40 dB on average and 30 dB at the least; else INVALID is printed and the
exit code is 1. Then pictures a second: over the whole call, and without start-up (img2dataset: its shards' own span;
clipmill: the fetch stage's own seconds).
"""
import argparse
import csv
import glob
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

PEER = """
import json, glob, os, sys, time
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
from img2dataset import download
if __name__ == "__main__":
    urls, out, size, mode, samples = sys.argv[1:6]
    download(url_list=urls, input_format="csv", url_col="url", caption_col="caption", output_folder=out,
             output_format="webdataset", processes_count=2, thread_count=32, image_size=int(size), resize_mode=mode,
             resize_only_if_bigger=True, number_sample_per_shard=int(samples), enable_wandb=False)
"""

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    types {{ image/jpeg jpg; }}
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def serve(root, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w") as file:
        file.write(NGINX.format(folder=folder, port=port, root=os.path.abspath(root)))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    server = subprocess.Popen([nginx, "-c", config, "-e", os.path.join(folder, "error.log"), "-p", folder])
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, port
        except OSError:
            time.sleep(0.05)
    raise SystemExit("nginx did not start")


def pictures(folder):
    """(width, height, jpeg) by url, over all shards of an output."""
    found = {}
    for path in glob.glob(os.path.join(folder, "*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in members.items():
            if name.endswith(".json"):
                about = json.loads(data)
                if about.get("status") == "success":
                    found[about["url"]] = (about["width"], about["height"], members[name[:-4] + "jpg"])
    return found


def compare(ours, theirs):
    import numpy
    from PIL import Image

    if ours.keys() != theirs.keys():
        return f"{len(ours)} pictures against {len(theirs)}", None
    worst, total, equal = 1e9, 0.0, 0
    urls = sorted(ours)[:: max(1, len(ours) // 500)]
    for url in urls:
        if ours[url][:2] != theirs[url][:2]:
            return f"{url}: {ours[url][:2]} against {theirs[url][:2]}", None
        equal += ours[url][2] == theirs[url][2]
        a, b = (numpy.asarray(Image.open(io.BytesIO(side[url][2])).convert("RGB"), dtype=numpy.float64) for side in (ours, theirs))
        error = ((a - b) ** 2).mean()
        psnr = 99.0 if error == 0 else min(99.0, 10 * numpy.log10(255**2 / error))
        worst, total = min(worst, psnr), total + psnr
    mean = total / len(urls)
    verdict = f"PSNR {mean:.1f} dB on average, {worst:.1f} at the least, {equal} of {len(urls)} files equal byte for byte"
    return (None if mean >= 40 and worst >= 30 else verdict), verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--size", default="256")
    parser.add_argument("--mode", default="keep_ratio")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=0, help="only so many pictures")
    parser.add_argument("--samples", default="1000", help="pictures a shard")
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
    names = sorted(name for name in os.listdir(args.photos) if name.endswith(".jpg"))
    names = names[: args.count] if args.count else names
    links = os.path.join(folder, "links.csv")
    with open(links, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "caption"])
        rows.writerows([f"http://127.0.0.1:{port}/{name}", f"photograph {name}"] for name in names)
    recipe = os.path.join(folder, "fetch.yaml")
    out, theirs = os.path.join(folder, "ours"), os.path.join(folder, "theirs")
    with open(recipe, "w") as file:
        file.write(f"""version: 1
name: fetch-benchmark
output: {out}
threads: 2
stages:
  - link_list: {{url_list: [{links}], caption_col: caption}}
  - fetch:
      image_size: {args.size}
      resize_mode: {args.mode}
      resize_only_if_bigger: true
      number_sample_per_shard: {args.samples}
      thread_count: 32
      max_per_host: 32
      robots: false
      ports: [{port}]
      allow_loopback: ["127.0.0.1"]
    id: fetch
""")
    peer = os.path.join(folder, "peer.py")
    with open(peer, "w") as file:
        file.write(PEER)
    best = {}
    for _ in range(args.rounds):
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        done = subprocess.run([args.clipmill, "run", recipe, "--json"], capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode != 0:
            print(done.stderr)
            return 1
        stages = json.loads(done.stdout)["stages"]
        span = next(stage["info"]["seconds"] for stage in stages if stage["kind"] == "fetch")
        note(best, "clipmill", wall, span)
        shutil.rmtree(theirs, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, peer, links, theirs, args.size, args.mode, args.samples], check=True, capture_output=True)
        wall = time.perf_counter() - start
        stats = [json.load(open(path)) for path in glob.glob(os.path.join(theirs, "*_stats.json"))]
        span = max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats)
        note(best, "img2dataset", wall, span)
    invalid, verdict = compare(pictures(os.path.join(out, "fetch")), pictures(theirs))
    if invalid:
        print(f"INVALID: {invalid}")
        return 1
    print(f"{len(names)} pictures, {args.size} px {args.mode}: the same urls, widths and heights; {verdict}")
    for name, (wall, span) in best.items():
        print(f"{name}: {len(names) / wall:.0f} img/s over the whole call, {len(names) / span:.0f} without start-up (best of {args.rounds})")
    print(f"times the peer: {best['img2dataset'][0] / best['clipmill'][0]:.2f} over the whole call, "
          f"{best['img2dataset'][1] / best['clipmill'][1]:.2f} without start-up")
    return 0


def note(best, name, wall, span):
    before = best.get(name, (wall, span))
    best[name] = (min(before[0], wall), min(before[1], span))


if __name__ == "__main__":
    sys.exit(main())
