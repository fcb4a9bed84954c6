"""What Python sees of `clipmill index` and `clipmill stream`.

    pip install webdataset==0.2.111 torch pyarrow      # a webdataset that still brings wids
    python bench/interop/wids_and_stream.py 00000.tar 00001.tar [--clipmill target/release/clipmill]

The shards are linked into a folder and indexed there. wids opens the list and gives every sample; md5 sums, offsets and sha256
are checked against the tars. webdataset reads `pipe:clipmill stream ...`: every sample once, over shares without loss or
repeat, and from any sample's cursor the same rest.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile


def check(truth, what):
    print(("ok      " if truth else "INVALID ") + what)
    if not truth:
        sys.exit(1)


def samples_of(tars):
    """Key and members of each sample, in order, by Python's tarfile."""
    found = []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                data = tar.extractfile(member).read()
                if not found or found[-1][0] != key:
                    found.append((key, {}))
                found[-1][1][suffix] = data
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tars", nargs="+")
    parser.add_argument("--clipmill", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "clipmill"))
    args = parser.parse_args()
    import pyarrow.parquet
    import webdataset
    import wids

    truth = samples_of(args.tars)
    with tempfile.TemporaryDirectory() as folder:
        for path in args.tars:
            os.symlink(os.path.abspath(path), os.path.join(folder, os.path.basename(path)))
        def index(options):
            subprocess.run([args.clipmill, "index", folder, *options], check=True, stdout=subprocess.DEVNULL)
            return [open(os.path.join(folder, "index", name), "rb").read() for name in ("members.parquet", "shardindex.json")]

        check(index([]) == index(["--threads", "1"]), "the index has the same bytes at one thread and at all")

        dataset = wids.ShardListDataset(os.path.join(folder, "index", "shardindex.json"), transformations=[], cache_dir=os.path.join(folder, "cache"))
        check(len(dataset) == len(truth), f"wids sees {len(dataset)} samples")
        same = all(
            sample["__key__"] == key and all(sample["." + suffix].read() == data for suffix, data in parts.items())
            for sample, (key, parts) in zip((dataset[i] for i in range(len(dataset))), truth)
        )
        check(same, "wids gives every member of every sample as it is")
        sums = {shard["url"]: shard["md5sum"] for shard in dataset.shards}
        check(all(any(u.endswith(os.path.basename(p)) and s == hashlib.md5(open(p, "rb").read()).hexdigest() for u, s in sums.items())
                  for p in args.tars), "md5 sums of the shards")

        table = pyarrow.parquet.read_table(os.path.join(folder, "index", "members.parquet")).to_pylist()
        contents = {os.path.basename(path): open(path, "rb").read() for path in args.tars}
        right = all(
            hashlib.sha256(contents[os.path.basename(row["shard"])][row["offset"]:row["offset"] + row["size"]]).hexdigest() == row["sha256"]
            for row in table
        )
        check(right and len(table) == sum(len(parts) for _, parts in truth), f"{len(table)} members lie where the table says")

        def stream(options, window=100):
            tars = " ".join(os.path.abspath(path) for path in args.tars)
            url = f"pipe:{args.clipmill} stream {tars} --seed 5 --window {window} {options} 2>/dev/null"
            return list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))

        def content(sample):
            return tuple(sorted((k, v) for k, v in sample.items() if not k.startswith("__") and k != "cursor"))

        expected = sorted(tuple(sorted(parts.items())) for _, parts in truth if set(parts) & {"jpg", "png", "jpeg", "webp"})
        whole = stream("")
        check(sorted(map(content, whole)) == expected, f"a pass has each of {len(whole)} samples once")
        check([content(s) for s in whole] != [content(s) for s in stream("", window=0)], "it is shuffled")
        parts = [s for i in range(3) for s in stream(f"--share {i}/3")]
        check(sorted(map(content, parts)) == expected, "three shares are the pass, without loss or repeat")
        for at in (0, len(whole) // 2, len(whole) - 1):
            rest = stream(f"--cursor {whole[at]['cursor'].decode()}")
            check([content(s) for s in rest] == [content(s) for s in whole[at + 1:]], f"from the cursor of sample {at} the same rest follows")


if __name__ == "__main__":
    main()
