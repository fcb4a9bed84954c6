"""Where the time of one training step goes on a GPU: Nsight Compute's time of every kernel, summed by name.

    python bench/gpu_kernels.py train_step MODEL WEIGHTS.safetensors BATCH.safetensors [bf16]

The arguments are those of train/examples/train_step.rs; it runs one step. Needs `ncu`. What it measures
is each kernel alone: gaps between kernels are not in it.
"""

import collections
import csv
import io
import re
import subprocess
import sys

binary, model, weights, batch, *rest = sys.argv[1:]
done = subprocess.run(
    ["ncu", "--csv", "--page", "raw", "--metrics", "gpu__time_duration.sum", "--clock-control", "none",
     "--cache-control", "none", binary, model, weights, batch, "1", *rest, "cuda"],
    capture_output=True, text=True)
lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
times = collections.defaultdict(list)
for row in csv.DictReader(io.StringIO("\n".join(lines))):
    try:
        nanoseconds = float(row["gpu__time_duration.sum"].replace(",", ""))
    except ValueError:
        unit = row["gpu__time_duration.sum"]  # the row of units
        continue
    times[re.sub(r"<.*|\(.*", "", row["Kernel Name"])[:60]].append(nanoseconds)
if not times:
    raise SystemExit(f"ncu gave no kernels: {done.stdout[-2000:]} {done.stderr[-2000:]}")
total = sum(map(sum, times.values()))
print(f"{sum(map(len, times.values()))} kernels, {total:,.0f} {unit} in all")
for name, each in sorted(times.items(), key=lambda item: -sum(item[1]))[:45]:
    print(f"{100 * sum(each) / total:5.1f} % {sum(each):14,.0f} {len(each):6} x {name}")
