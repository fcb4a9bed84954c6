"""Makes eval/tests/zeroshot_small.json: seeded features, and what CLIP_benchmark and scikit-learn say of them.

    pip install clip-benchmark scikit-learn torch 'numpy<2.4'
    python bench/interop/zeroshot_small.py eval/tests/zeroshot_small.json

Six classes of which the last never occurs, prompts of unequal length, a class without a positive among the labels, pictures with
one to three captions. Numbers are rounded to four digits before anything is computed from them.
"""
import json
import sys

import numpy
import torch
import torch.nn.functional as F
from clip_benchmark.metrics.zeroshot_classification import accuracy, average_precision_per_class
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from sklearn.metrics import balanced_accuracy_score, f1_score

rng = numpy.random.default_rng(11)
rounded = lambda a: torch.tensor(numpy.round(a, 4), dtype=torch.float32)
classes, prompts, dim, count = 6, 3, 8, 60
proto = rng.normal(size=(classes, dim))
labels = rng.integers(0, classes - 1, count)
images = rounded(proto[labels] + rng.normal(size=(count, dim)) * 1.6)
texts = rounded((proto[:, None] + rng.normal(size=(classes, prompts, dim))) * rng.uniform(0.3, 3, (classes, prompts, 1)))
classifier = F.normalize(F.normalize(texts, dim=-1).mean(1), dim=-1).T
logits = 100 * F.normalize(images, dim=-1) @ classifier
target = torch.tensor(labels)
acc1, acc5 = accuracy(logits, target, topk=(1, 5))
predicted = logits.argmax(1)
multilabel = (rng.random((count, classes)) < 0.3).astype(int)
multilabel[:, 2] = 0
precisions = average_precision_per_class(logits, torch.tensor(multilabel))
groups = rng.integers(0, 3, count)
right = (predicted == target).numpy()
pictures = rounded(rng.normal(size=(25, dim)))
owners = numpy.repeat(numpy.arange(25), [1 + i % 3 for i in range(25)])
captions = rounded(pictures.numpy()[owners] + rng.normal(size=(len(owners), dim)) * 1.2)
scores = F.normalize(captions, dim=-1) @ F.normalize(pictures, dim=-1).T
positive = torch.zeros_like(scores, dtype=bool)
positive[torch.arange(len(owners)), torch.tensor(owners)] = True
recalls = {}
for k in (1, 5, 10):
    recalls[f"image_retrieval_recall@{k}"] = float((recall_at_k(scores, positive, k) > 0).double().mean())
    recalls[f"text_retrieval_recall@{k}"] = float((recall_at_k(scores.T, positive.T, k) > 0).double().mean())
exact = lambda t: [[round(float(v), 4) for v in row] for row in t]
json.dump({
    "images": exact(images), "prompts": [exact(c) for c in texts], "labels": labels.tolist(),
    "multilabel": multilabel.tolist(), "groups": groups.tolist(),
    "pictures": exact(pictures), "captions": exact(captions), "owners": owners.tolist(),
    "expected": {
        "acc1": acc1, "acc5": acc5, "mean_per_class_recall": balanced_accuracy_score(labels, predicted),
        "F1-macro_all": f1_score(labels, predicted, average="macro", labels=sorted(set(labels.tolist()))),
        "acc_wg": min(float(right[groups == g].mean()) for g in range(3)),
        "mean_average_precision": float(precisions.double().mean()), **recalls},
}, open(sys.argv[1], "w"), separators=(",", ":"))
