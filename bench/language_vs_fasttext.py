"""Language identification: clipmill against the Python package fasttext (which is C++), same model, same captions, one go.

    cargo build --release -p clipmill-filter --example language
    pip install fasttext-wheel==0.9.2 numpy pyarrow
    python bench/language_vs_fasttext.py target/release/examples/language lid.176.ftz CAPTIONS.parquet [--rounds 3] [--repeat 20]

CAPTIONS.parquet has a column TEXT or text. Labels must be equal and probabilities within 1e-4, else INVALID is printed and the exit
code is 1. Prints captions/s: fasttext asked caption by caption (as DataComp's basic_filter does) and by lists, clipmill on 1 and 2 threads.
"""
import argparse, os, subprocess, sys, tempfile, time

import fasttext
import numpy
import pyarrow.parquet as pq

p = argparse.ArgumentParser()
p.add_argument("language"); p.add_argument("model"); p.add_argument("captions"); p.add_argument("--rounds", type=int, default=3); p.add_argument("--repeat", type=int, default=20)
a = p.parse_args()
fasttext.FastText.eprint = lambda *_: None
# The wheel was written for numpy 1: `copy=False` is an error in numpy 2.
fasttext.FastText.np = type("np", (), {"array": staticmethod(lambda x, copy=None: numpy.asarray(x))})
table = pq.read_table(a.captions)
captions = [(text or "").replace("\n", " ").replace("\r", " ") for text in table["TEXT" if "TEXT" in table.column_names else "text"].to_pylist()]
model = fasttext.load_model(a.model)

with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
    file.write("\n".join(captions) + "\n")

def ours(threads):
    done = subprocess.run([a.language, a.model, file.name, str(a.repeat)], capture_output=True, text=True, check=True, env={**os.environ, "CLIPMILL_THREADS": str(threads)})
    return [line.split("\t") for line in done.stdout.splitlines()], float(done.stderr.split()[0])

found, _ = ours(2)
expected = [model.predict(caption) for caption in captions]
wrong = sum(label != labels[0].removeprefix("__label__") for (label, _), (labels, _) in zip(found, expected))
furthest = max(abs(float(score) - float(scores[0])) for (_, score), (_, scores) in zip(found, expected))
if len(found) != len(captions) or wrong or furthest > 1e-4:
    print(f"INVALID: {len(found)} of {len(captions)} captions, {wrong} other labels, probabilities differ by up to {furthest:g}")
    sys.exit(1)
print(f"{len(captions)} captions: all labels equal, probabilities differ by at most {furthest:.1e}")
PASSES = 8
for number in range(a.rounds):
    start = time.perf_counter()
    for _ in range(PASSES):
        for caption in captions: model.predict(caption)
    single = PASSES * len(captions) / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(PASSES): model.predict(captions, k=1)
    listed = PASSES * len(captions) / (time.perf_counter() - start)
    one, two = ours(1)[1], ours(2)[1]
    print(f"round {number + 1}: fasttext {single:,.0f} (one by one), {listed:,.0f} (as a list); clipmill {one:,.0f} on 1 thread, {two:,.0f} on 2 "
          f"captions/s: {one / max(single, listed):.1f} and {two / max(single, listed):.1f} times", flush=True)
os.unlink(file.name)
