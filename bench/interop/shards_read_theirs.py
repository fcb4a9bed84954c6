"""Reads tars of Python's tarfile, GNU tar and webdataset with clipmill's shard room, and compares every member.

    python bench/interop/shards_read_theirs.py [SHARDS...]

Needs webdataset (PyPI) and GNU tar; builds and runs shard/examples/read.rs. Makes tars in every format that
holds long and accented names (ustar with prefix, GNU long name, PAX), with folders, mixed case and repeated
suffixes, and by webdataset's TarWriter; SHARDS are compared as well. What webdataset sees is the truth.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile

import webdataset

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ["000000000.jpg", "000000000.TXT", "000000000.json", "a/b.c/0001.seg.png", "a/b.c/0001.txt", "LICENSE",
         ".hidden.jpg", "__meta__/x.txt", "d" * 90 + "/" + "k" * 60 + ".jpg"]
LONG = ["d" * 90 + "/" + "k" * 120 + ".jpg", "caf\u00e9/\u732b" + "x" * 100 + ".png"]


def build():
    subprocess.run(["cargo", "build", "--release", "-p", "clipmill-shard", "--example", "read"], check=True, cwd=ROOT)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "examples", "read")


def theirs(path):
    found = []
    for sample in webdataset.WebDataset([path], shardshuffle=False, empty_check=False):
        parts = [(suffix, data) for suffix, data in sample.items() if isinstance(data, bytes)]
        found += [[sample["__key__"], suffix, hashlib.sha256(data).hexdigest()] for suffix, data in parts]
    return found


def make(folder):
    for name, kind, names in [("ustar", tarfile.USTAR_FORMAT, NAMES), ("gnu", tarfile.GNU_FORMAT, NAMES + LONG),
                              ("pax", tarfile.PAX_FORMAT, NAMES + LONG)]:
        path = os.path.join(folder, name + ".tar")
        with tarfile.open(path, "w", format=kind) as tar:
            directory = tarfile.TarInfo("a")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
            for i, member in enumerate(names):
                data = member.encode() * i * 7
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        yield path
    files = os.path.join(folder, "files")
    for member in NAMES + LONG:
        os.makedirs(os.path.dirname(os.path.join(files, member)), exist_ok=True)
        open(os.path.join(files, member), "wb").write(member.encode() * 9)
    for kind in ["gnu", "oldgnu", "pax", "posix"]:
        path = os.path.join(folder, f"tool-{kind}.tar")
        command = ["tar", f"--format={kind}", "--sort=name", "-C", files, "-cf", path] + sorted(os.listdir(files))
        subprocess.run(command, check=True)
        yield path
    path = os.path.join(folder, "webdataset.tar")
    with webdataset.TarWriter(path) as writer:
        for i in range(20):
            writer.write({"__key__": f"{i:06d}", "jpg": b"\xff\xd8\xff" * i, "txt": f"picture {i}", "json": {"i": i}})
    yield path


def main():
    binary = build()
    with tempfile.TemporaryDirectory() as folder:
        for path in [*make(folder), *sys.argv[1:]]:
            run = subprocess.run([binary, "--case", "list", path], check=True, stdout=subprocess.PIPE)
            ours = [json.loads(line) for line in run.stdout.splitlines()]
            same = ours == theirs(path) and ours
            print(f"{os.path.basename(path)}: {len(ours)} members, {'the same' if same else 'DIFFERENT'}")
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
