"""What numpy and pyarrow make of our files, and files of theirs for us. Called by peers.rs."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

folder = sys.argv[1]


def at(name):
    return f"{folder}/{name}"


def same_bytes(name, array):
    with open(at("peer.npy"), "wb") as file:
        np.save(file, array)
    theirs, ours = open(at("peer.npy"), "rb").read(), open(at(name), "rb").read()
    assert theirs == ours, (name, theirs[:200], ours[:200])


uids = np.array([(1413649363202610295, 2235693070683988304), (2**64 - 1, 0), (2**64 - 1, 0)], "u8,u8")
same_bytes("subset.npy", uids)
same_bytes("f2.npy", np.array([0.5, -2, 65504], "f2"))
same_bytes("i8.npy", np.array([-(2**63), 2**63 - 1], "i8"))
same_bytes("u1.npy", np.array([0, 255], "u1"))
same_bytes("scalar.npy", np.array(1.5, "f4"))
# Shapes around the 64-byte border of the header.
for ones in range(25):
    for last in (1, 10, 100):
        same_bytes(f"empty-{ones}-{last}.npy", np.empty((0, *[1] * ones, last), "f4"))
for rows in (1, 9, 10, 100):
    same_bytes(f"rows-{rows}.npy", np.arange(rows * 3, dtype="f4").reshape(rows, 3))

table = pq.read_table(at("ours.parquet"))
assert table.column_names == ["uid", "score", "image"], table
assert table["uid"].to_pylist() == [f"{i:032x}" if i % 7 else None for i in range(5000)]
assert table["score"].to_pylist() == [i / 8 for i in range(5000)]
assert table["image"].to_pylist() == [bytes([i % 256]) * (i % 5) for i in range(5000)]
file = pq.ParquetFile(at("ours.parquet"))
assert file.metadata.created_by == "clipmill"
assert [file.metadata.row_group(i).num_rows for i in range(3)] == [2000, 2000, 1000]

np.save(at("theirs.npy"), np.arange(12, dtype="f4").reshape(3, 4))
with open(at("theirs-v2.npy"), "wb") as out:
    np.lib.format.write_array(out, np.arange(3, dtype="u2"), version=(2, 0))
with open(at("theirs-v3.npy"), "wb") as out:
    np.lib.format.write_array(out, np.arange(3, dtype="u2"), version=(3, 0))
np.save(at("fortran.npy"), np.asfortranarray(np.ones((2, 3), "f4")))
np.save(at("object.npy"), np.array([{}, []], object), allow_pickle=True)
np.save(at("big.npy"), np.arange(3, dtype=">f4"))
np.save(at("theirs-subset.npy"), np.sort(uids))
np.sort(uids).tofile(at("theirs-subset.raw"))
columns = {"uid": ["a", None, "c"], "faces": [[[0.0, 0.5]], [], None], "w": [1, 2, 3]}
pq.write_table(pa.table(columns), at("theirs.parquet"), compression="zstd", version="2.6",
               data_page_version="2.0")
