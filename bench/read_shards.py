"""Times reading WebDataset shards raw (members as bytes, nothing decoded): webdataset and clipmill in one go.

    python bench/read_shards.py SHARDS... [--workers 1,2] [--repeat 5] [--runs 3]

Needs Python with webdataset (PyPI); builds and runs shard/examples/read.rs. A case counts only if both
sides saw the same number of samples and the same number of member bytes; else it prints INVALID and exits 1.
Each worker takes every nth shard and returns two numbers only: the peer does not pay for passing samples
between processes (its own loader does). Medians of --runs passes after one warm-up pass; files come from
the page cache.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read_with_webdataset(urls):
    import webdataset

    samples = volume = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        samples += 1
        volume += sum(len(value) for value in sample.values() if isinstance(value, bytes))
    return samples, volume


def peer(urls, workers, runs):
    shares = [share for share in (urls[i::workers] for i in range(workers)) if share]
    seconds = []
    with multiprocessing.get_context("spawn").Pool(len(shares)) as pool:
        pool.map(read_with_webdataset, shares, chunksize=1)
        for _ in range(runs):
            start = time.perf_counter()
            parts = pool.map(read_with_webdataset, shares, chunksize=1)
            seconds.append(time.perf_counter() - start)
    return sum(part[0] for part in parts), sum(part[1] for part in parts), seconds


def ours(binary, case, urls, workers, repeat, runs):
    command = [binary, "--case", case, "--threads", str(workers), "--repeat", str(repeat), "--runs", str(runs + 1)]
    result = json.loads(subprocess.run(command + urls, check=True, stdout=subprocess.PIPE).stdout)
    return result["samples"], result["bytes"], result["seconds"][1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--binary", help="a built example `read`, instead of building it")
    options = parser.parse_args()

    binary = options.binary
    if binary is None:
        build = ["cargo", "build", "--release", "-p", "clipmill-shard", "--example", "read"]
        subprocess.run(build, check=True, cwd=ROOT)
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
        binary = os.path.join(target, "release", "examples", "read")

    import webdataset

    print(f"webdataset {webdataset.__version__}, {len(options.shards)} shards read {options.repeat} times a pass")
    valid = True
    for workers in map(int, options.workers.split(",")):
        samples, volume, seconds = peer(options.shards * options.repeat, workers, options.runs)
        rows = [("webdataset", samples, volume, seconds)]
        for case, name in [("raw", "clipmill"), ("shuffled", "clipmill, shuffled"), ("pairs", "clipmill as pairs")]:
            rows.append((name, *ours(binary, case, options.shards, workers, options.repeat, options.runs)))
        # Pairs hold the pictures' bytes alone: only their number can be compared.
        same = rows[0][1:3] == rows[1][1:3] == rows[2][1:3] and rows[0][1] == rows[3][1]
        valid &= same
        for name, samples, volume, seconds in rows:
            middle = statistics.median(seconds)
            spread = f"{samples / max(seconds):.0f}-{samples / min(seconds):.0f}"
            times = f"{statistics.median(rows[0][3]) / middle:.1f}x"
            verdict = f"{samples / middle:.0f} samples/s ({spread}), {times}" if same else "INVALID"
            print(f"{workers} workers, {name}: {samples} samples, {volume} bytes: {verdict}", flush=True)
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
