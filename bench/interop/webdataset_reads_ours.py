"""Opens what clipmill's shard room writes with the tools that people use, and compares every value.

    python bench/interop/webdataset_reads_ours.py

Needs webdataset, pyarrow, numpy and pillow (PyPI) and GNU tar; builds and runs shard/examples/write.rs.
Checks: Python's tarfile, GNU tar and webdataset see the same members; each json is byte for byte what
json.dumps(indent=4) makes of its values, in img2dataset's order; the parquet has img2dataset's schema; the
statistics add up; resharded names, sizes.json, meta.json and sample_ids.npy are the resharder's.
"""

import glob
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile

import numpy
import pyarrow.parquet
import webdataset
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FIELDS = ["uid", "caption", "url", "key", "status", "error_message", "width", "height",
          "original_width", "original_height", "sha256"]


def build():
    subprocess.run(["cargo", "build", "--release", "-p", "clipmill-shard", "--example", "write"], check=True, cwd=ROOT)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "examples", "write")


def members(path):
    """Names and data by Python's tarfile; GNU tar must list and extract the same."""
    with tarfile.open(path) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}
        for info in tar.getmembers():
            assert info.isreg() and info.mode == 0o444 and info.mtime == 0 and info.uid == info.gid == 0, info
            assert info.uname == info.gname == "", info
    run = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    assert run.stderr == "", run.stderr
    assert run.stdout.split() == list(found)
    run = subprocess.run(["tar", "-xOf", path], check=True, capture_output=True)
    assert run.stdout == b"".join(found.values())
    return found


def samples(path):
    return list(webdataset.WebDataset([path], shardshuffle=False, empty_check=False))


def check_pool(folder):
    path = os.path.join(folder, "00000000.tar")
    found = members(path)
    rows = pyarrow.parquet.read_table(os.path.join(folder, "00000000.parquet"))
    assert [f.name for f in rows.schema] == FIELDS
    assert [str(f.type) for f in rows.schema] == ["string"] * 6 + ["int32"] * 4 + ["string"]
    rows = rows.to_pylist()
    good = [row for row in rows if row["status"] == "success"]
    assert len(rows) == 40 and 0 < len(good) < 40
    assert all((row["error_message"] is None) == (row["status"] == "success") for row in rows)
    read = samples(path)
    assert [s["__key__"] for s in read] == [row["key"] for row in good]
    for sample, row in zip(read, good):
        value = json.loads(sample["json"])
        assert list(value) == FIELDS and value == row
        assert json.dumps(value, indent=4).encode() == sample["json"]
        assert sample["txt"].decode() == row["caption"]
        picture = sample.get("jpg") or sample["png"]
        assert Image.open(io.BytesIO(picture)).size == (row["width"], row["height"])
    assert sum(len(s) - 2 for s in map(lambda s: {k: v for k, v in s.items() if k != "__local_path__"}, read)) == len(found)
    text = open(os.path.join(folder, "00000000_stats.json")).read()
    stats = json.loads(text)
    assert json.dumps(stats, indent=4) == text
    assert list(stats) == ["count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time",
                           "end_time", "status_dict"]
    assert stats["count"] == 40 and stats["successes"] == len(good)
    assert stats["status_dict"] == {"http_404": 40 - len(good), "success": len(good)}
    return good


def check_shards(folder, good):
    paths = sorted(glob.glob(os.path.join(folder, "*.tar")))
    names = [os.path.basename(path) for path in paths]
    assert names == [f"{i:08d}.tar" for i in range(len(paths))] and len(paths) > 1
    read = [sample for path in paths for sample in samples(path)]
    assert [s["__key__"] for s in read] == [f"{row['uid']}-0" for row in good]
    assert [json.loads(s["json"]) for s in read] == good
    sizes = json.load(open(os.path.join(folder, "sizes.json")))
    assert sizes == {name: len(samples(path)) for name, path in zip(names, paths)}
    meta = json.load(open(os.path.join(folder, "meta.json")))
    assert meta["output_shard_count"] == len(paths) and meta["output_count"] == len(good)
    assert [meta["output_shard_format"].format(i) for i in range(len(paths))] == names
    for path in paths:
        members(path)
        stats = json.load(open(path.replace(".tar", "_stats.json")))
        assert stats == {"successes": sizes[os.path.basename(path)]}
    ids = numpy.load(os.path.join(folder, "sample_ids.npy"))
    assert ids.dtype == numpy.dtype("u8,u8")
    expected = sorted((int(row["uid"][:16], 16), int(row["uid"][16:], 16)) for row in good)
    assert [tuple(map(int, row)) for row in ids] == expected


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else build()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        for folder in (one, two):
            subprocess.run([binary, folder], check=True)
        good = check_pool(os.path.join(one, "pool"))
        check_shards(os.path.join(one, "shards"), good)
        for stage in ("pool", "shards"):
            for path in glob.glob(os.path.join(one, stage, "*.*")):
                other = os.path.join(two, stage, os.path.basename(path))
                assert open(path, "rb").read() == open(other, "rb").read(), path
    print(f"webdataset {webdataset.__version__}, pyarrow {pyarrow.__version__}, Python's tarfile and GNU tar read "
          f"{len(good)} samples as they were written; a second run gave the same bytes")


if __name__ == "__main__":
    main()
