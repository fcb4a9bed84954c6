"""How long the viewer takes to answer over 100,000 pairs, and how much memory.

    pip install pyarrow pillow
    python bench/view_100k.py CLIPMILL

Makes ten shards of 10,000 pairs with a score in a temporary folder (250 MB), serves them, asks each
question once, and prints seconds, pairs found, and the most memory that the server had (VmHWM).
"""

import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

random.seed(1)
WORDS = "cat dog red blue house tree river mountain old new car bus city sea fish bird".split()


def picture(i):
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (i * 4, 255 - i * 4, i * 37 % 256)).save(out, "JPEG")
    return out.getvalue()


PICTURES = [picture(i) for i in range(64)]


def shard(folder, number):
    rows = {name: [] for name in ("uid", "caption", "url", "key", "status", "clip_score", "reason")}
    with tarfile.open(f"{folder}/{number:05d}.tar", "w") as tar:
        for i in range(10_000):
            n = number * 10_000 + i
            key, caption = f"{number:05d}{i:04d}", " ".join(random.choices(WORDS, k=6))
            url = f"http://h{n % 997}.example/{n}.jpg"
            for suffix, data in (("jpg", PICTURES[n % 64]), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            uid = hashlib.md5((caption + url).encode()).hexdigest()
            reason = "caption_words" if random.random() < 0.1 else None
            values = (uid, caption, url, key, "success", random.gauss(0.25, 0.06), reason)
            for column, value in zip(rows.values(), values):
                column.append(value)
    columns = {name: pa.array(values, pa.float32() if name == "clip_score" else pa.string()) for name, values in rows.items()}
    pq.write_table(pa.table(columns), f"{folder}/{number:05d}.parquet")


with tempfile.TemporaryDirectory() as folder:
    for number in range(10):
        shard(folder, number)
    viewer = subprocess.Popen([sys.argv[1], "view", folder], stderr=subprocess.PIPE, text=True)
    try:
        url = next(m.group() for line in viewer.stderr if (m := re.search(r"http://\S+", line)))
        for question in ("api/info", "api/rows", "api/rows?q=cat+sea", "api/rows?score=clip_score&min=0.4", "api/rows?domain=h5.example", "api/rows?page=1600"):
            began = time.perf_counter()
            answer = json.load(urllib.request.urlopen(url + question))
            print(f"{time.perf_counter() - began:.3f} s  {answer.get('total', answer.get('rows'))} pairs  {question}")
        for number in range(10):
            urllib.request.urlopen(f"{url}picture?shard={number:05d}&key={number:05d}0001").read()
        status = open(f"/proc/{viewer.pid}/status").read()
        print("memory at most:", re.search(r"VmHWM:\s*(.*)", status).group(1))
    finally:
        viewer.kill()
