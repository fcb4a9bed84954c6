"""A release as Python sees it: mlcroissant validates it, three readers open it, checksums hold.

    pip install mlcroissant datasets webdataset polars pillow
    python bench/interop/release_opens.py RELEASE

Prints one line a check and INVALID with exit code 1 where one fails. Nothing is downloaded.
"""

import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A cache of its own: `datasets` knows a folder by its name, and would show another release again.
cache = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = cache.name

release = os.path.abspath(sys.argv[1])
os.chdir(release)
manifest = json.load(open("manifest.json"))
shards = sorted(glob.glob("shards/*.tar"))
failed = []


def check(what, holds, more=""):
    print(f"{'equal  ' if holds else 'INVALID'}  {what}{': ' + str(more) if more else ''}")
    if not holds:
        failed.append(what)


def root(leaves):
    """RFC 6962, section 2.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:half]) + root(leaves[half:])).digest()


files = sorted(manifest["files"], key=lambda f: f["path"].encode())
leaves = [hashlib.sha256(f"\0{f['sha256']}  {f['bytes']}  {f['path']}\n".encode()).digest() for f in files]
check("Merkle root", root(leaves).hex() == manifest["merkle_root"], manifest["merkle_root"])
summed = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], capture_output=True, text=True)
check("sha256sum -c SHA256SUMS", summed.returncode == 0, summed.stdout.strip())

import polars

rows = polars.read_parquet("metadata/*.parquet")
check("polars: rows of the metadata", len(rows) == manifest["samples"], len(rows))

import numpy

subset = numpy.load("subset.npy")
uids = ["%016x%016x" % (int(a), int(b)) for a, b in subset.tolist()]
check("numpy: uids of subset.npy", uids == sorted(rows["uid"].to_list()), subset.dtype)

if shards:
    import webdataset

    pairs = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    seen = [(pair["__key__"], (pair.get("jpg") or pair.get("png") or pair.get("webp")).size) for pair in pairs]
    check("webdataset: pictures of the shards", len(seen) == manifest["samples"], len(seen))
    sizes = list(zip(rows["width"].to_list(), rows["height"].to_list()))
    check("webdataset: sizes are the metadata's", [size for _, size in seen] == sizes)

import datasets

pairs = datasets.load_dataset(release, split="train")
check("datasets: the folder as its card says", len(pairs) == manifest["samples"], pairs.column_names)
if shards:
    kind = [name for name in ("jpg", "png", "webp") if name in pairs.column_names][0]
    check("datasets: a picture is decoded", pairs[0][kind].size == sizes[0])
    table = datasets.load_dataset("parquet", data_files="metadata/*.parquet", split="train")
    check("datasets: metadata", len(table) == manifest["samples"], table.column_names)

import logging

import mlcroissant

told = []


class Tell(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())


logging.getLogger("absl").addHandler(Tell())
dataset = mlcroissant.Dataset(jsonld="croissant.json")
issues = dataset.metadata.ctx.issues
check("mlcroissant: no error", not issues.errors, list(issues.errors))
print("         mlcroissant: warnings:", sorted(issues.warnings) or "none")
print("         mlcroissant: conforms to", dataset.metadata.ctx.conforms_to.value)
records = list(dataset.records("pairs"))
check("mlcroissant: records", len(records) == manifest["samples"], len(records))
ids = sorted(record["pairs/uid"].decode() if isinstance(record["pairs/uid"], bytes) else record["pairs/uid"] for record in records)
check("mlcroissant: uids of the records", ids == sorted(rows["uid"].to_list()))
rai = [key for key in json.load(open("croissant.json")) if key.startswith("rai:")]
print("         responsible-AI fields:", ", ".join(rai))

print("INVALID" if failed else f"all equal: {manifest['samples']} pairs, {len(files)} files")
sys.exit(1 if failed else 0)
