"""Makes the small fastText models of filter/tests/data/fasttext and what fastText says with them.

    python fasttext_small.py filter/tests/data/fasttext

Needs fasttext-wheel 0.9.2 and numpy. Training with one thread is repeatable on one machine; the
files in the repository are one outcome, and expected.tsv belongs to them.
"""
import os, random, sys, tempfile

import fasttext
import numpy

fasttext.FastText.eprint = lambda *_: None
# The wheel was written for numpy 1: `copy=False` is an error in numpy 2.
fasttext.FastText.np = type("np", (), {"array": staticmethod(lambda x, copy=None: numpy.asarray(x))})

WORDS = {
    "en": "the cat sat on a red mat and looked at blue birds over old town by river".split(),
    "de": "die Katze saß auf einer roten Matte und sah blaue Vögel über der alten Stadt am Fluss".split(),
    "fr": "le chat était assis sur un tapis rouge et regardait des oiseaux bleus près du château".split(),
    "ru": "кошка сидела на красном ковре и смотрела на синих птиц над старым городом у реки".split(),
}
LINES = ["the cat sat on a red mat", "die alte Stadt am Fluss", "un tapis rouge", "кошка на ковре",
         "THE CAT", "xyzzy", "", "  blue   birds ", "Vögel", "a __label__en b", "naïve café", "1234 5678"]

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
random.seed(0)
with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
    for _ in range(600):
        label = random.choices(list(WORDS), weights=[5, 3, 2, 1])[0]
        file.write(f"__label__{label} " + " ".join(random.choices(WORDS[label], k=random.randint(2, 7))) + "\n")
rows = []
for loss in ["hs", "softmax"]:
    model = fasttext.train_supervised(file.name, dim=6 if loss == "hs" else 16, epoch=20, lr=0.5, loss=loss, minn=2,
                                      maxn=4, bucket=900 if loss == "hs" else 150, thread=1, verbose=0)
    names = [f"{loss}.bin"]
    model.save_model(os.path.join(out, names[0]))
    if loss == "hs":
        model.quantize(input=file.name, cutoff=600, qnorm=True, dsub=2, retrain=False, verbose=False)
        names.append("hs.ftz")
        model.save_model(os.path.join(out, "hs.ftz"))
    for name in names:
        loaded = fasttext.load_model(os.path.join(out, name))
        for line in LINES:
            labels, scores = loaded.predict(line)
            rows.append(f"{name}\t{labels[0]}\t{float(scores[0]):.9g}\t{line}\n")
with open(os.path.join(out, "expected.tsv"), "w") as file:
    file.writelines(sorted(rows, key=lambda row: row.split("\t")[0]))
