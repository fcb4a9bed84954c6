"""Python's TensorBoard reads the events of a training and finds the numbers of its metrics.

    clipmill train ... --log-every-n-steps 1 --output OUT
    python bench/interop/tensorboard_reads_ours.py OUT/train

Needs tensorboard. Every step of metrics.jsonl must have its loss, learning rate and scale, once,
also after kills: a training that goes on takes back the points after its state.
"""

import json
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

stage = Path(sys.argv[1])
events = EventAccumulator(str(stage / "_work/tensorboard"), size_guidance={"scalars": 0})
events.Reload()
rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
wrong = 0
for tag, of in [
    ("train/loss", lambda row: row["loss"]),
    ("train/lr", lambda row: row["lr"]),
    ("train/logit_scale", lambda row: math.exp(row["logit_scale"])),
]:
    points = [(point.step, point.value) for point in events.Scalars(tag)]
    assert [step for step, _ in points] == [row["step"] for row in rows], f"{tag}: steps differ"
    wrong += sum(abs(value - of(row)) > 1e-5 * abs(of(row)) for (_, value), row in zip(points, rows))
tags = events.Tags()["scalars"]
print(f"{len(rows)} steps, {len(tags)} series ({', '.join(tags)}); {wrong} numbers differ")
sys.exit(bool(wrong))
