"""clipmill's evaluation gives CLIP_benchmark's numbers, on made-up test sets and one open_clip checkpoint.

    cargo build --release -p clipmill
    pip install open_clip_torch clip-benchmark scikit-learn 'numpy<2.4' webdataset     (numpy 2.4 breaks its accuracy())
    python bench/interop/clip_benchmark_equal.py [--clipmill target/release/clipmill] [--work FOLDER] [--datacomp CHECKOUT]

Makes small test sets in the form that CLIP_benchmark and DataComp use (drawn shapes; lossless webp and png, with --jpeg also jpg), and a small ViT with
random weights in open_clip's form. Both sides then evaluate:

    classification, multilabel, retrieval   CLIP_benchmark's own datasets and metrics, without autocast
    WinoGAViL                               scikit-learn's jaccard_score, as DataComp's wino_eval.py calls it
    linear probe                            scikit-learn's LogisticRegression with the weight decay that clipmill chose
    WILDS and fairness metrics              with --datacomp: the evaluator classes of a checkout of mlfoundations/datacomp,
                                            on these predictions (needs `pip install --no-deps wilds`)

Prints both numbers of every metric. Shares must be equal to 1e-6 (the peer means in f32), mean average precision to 1e-4 and
the probe to one picture; else it prints DIFFERENT and the exit code is 1.
"""
import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

SHAPES = ["circle", "square", "triangle", "cross", "ring", "bar"]
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200), "grey": (120, 120, 120)}
KINDS = ["webp", "png"]


def draw(rng, shape, colour, size=64):
    from PIL import Image, ImageDraw
    import numpy
    noise = rng.integers(0, 90, (size, size, 3), dtype=numpy.uint8)
    image = Image.fromarray(noise + 120)
    pen = ImageDraw.Draw(image)
    x, y, r = [int(v) for v in rng.integers((18, 18, 8), (46, 46, 18))]
    box = (x - r, y - r, x + r, y + r)
    fill = tuple(COLOURS[colour])
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    elif shape == "cross":
        pen.line((x - r, y - r, x + r, y + r), fill=fill, width=5)
        pen.line((x - r, y + r, x + r, y - r), fill=fill, width=5)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=4)
    else:
        pen.rectangle((x - r, y - 3, x + r, y + 3), fill=fill)
    return image


def encoded(image, kind):
    out = io.BytesIO()
    if kind == "webp":
        image.save(out, "WEBP", lossless=True)
    elif kind == "png":
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=92)
    return out.getvalue()


def npy(values, dtype):
    import numpy
    out = io.BytesIO()
    numpy.save(out, numpy.asarray(values, dtype=dtype))
    return out.getvalue()


def write_split(folder, split, samples, shards=2):
    """samples: list of (image, {suffix: bytes})"""
    os.makedirs(os.path.join(folder, split), exist_ok=True)
    for shard in range(shards):
        with tarfile.open(os.path.join(folder, split, f"{shard}.tar"), "w") as tar:
            for number in range(shard, len(samples), shards):
                image, members = samples[number]
                kind = KINDS[number % len(KINDS)]
                for suffix, data in [*members.items(), (kind, encoded(image, kind))]:
                    info = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    write(folder, f"{split}/nshards.txt", str(shards))


def write(folder, name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def make_data(root):
    import numpy
    rng = numpy.random.default_rng(7)
    colours = list(COLOURS)
    templates = ["a {c}.", "a photo of a {c}, drawn.", "{c}"]
    choose = lambda weights: int(rng.choice(len(weights), p=numpy.array(weights) / sum(weights)))

    def classified(folder, count, extra=lambda label: {}):
        samples = []
        for _ in range(count):
            label = choose([6, 5, 4, 3, 2, 0])          # unequal classes, the last one never occurs
            image = draw(rng, SHAPES[label], colours[int(rng.integers(4))])
            samples.append((image, {"cls": str(label).encode(), **extra(label)}))
        return samples

    shapes = os.path.join(root, "wds_shapes_test")
    write_split(shapes, "test", classified(shapes, 601))
    write_split(shapes, "train", classified(shapes, 400))
    write(shapes, "classnames.txt", "\n".join(SHAPES) + "\n")
    write(shapes, "zeroshot_classification_templates.txt", "\n".join(templates) + "\n")

    few = os.path.join(root, "wds_colours_test")         # four classes: no acc5
    samples = []
    for _ in range(202):
        label = int(rng.integers(4))
        samples.append((draw(rng, SHAPES[int(rng.integers(6))], colours[label]), {"cls": str(label).encode()}))
    write_split(few, "test", samples)
    write(few, "classnames.txt", "\n".join(colours))
    write(few, "zeroshot_classification_templates.txt", "something {c}")

    multi = os.path.join(root, "wds_shapes_multilabel_test")
    samples = []
    for _ in range(300):
        shape, colour = int(rng.integers(6)), int(rng.integers(4))
        target = [int(shape == i) for i in range(6)] + [int(colour == i) for i in range(4)] + [0]
        samples.append((draw(rng, SHAPES[shape], colours[colour]), {"npy": npy(target, "int64")}))
    write_split(multi, "test", samples)
    write(multi, "dataset_type.txt", "multilabel\n")
    write(multi, "classnames.txt", "\n".join([*SHAPES, *colours, "nothing"]))
    write(multi, "zeroshot_classification_templates.txt", "\n".join(templates))

    pairs = os.path.join(root, "wds_pairs_test")
    samples = []
    for number in range(257):
        shape, colour = SHAPES[int(rng.integers(6))], colours[int(rng.integers(4))]
        lines = [f"a {colour} {shape}", f"{shape} number {number}", f"{colour} on noise", f"picture {number * 7}"]
        samples.append((draw(rng, shape, colour), {"txt": "\n".join(lines[: 1 + number % 4]).encode()}))
    write_split(pairs, "test", samples)
    write(pairs, "dataset_type.txt", "retrieval")

    wino = os.path.join(root, "wds_winogavil_test")
    names = [f"{colour}-{shape}" for colour in colours for shape in SHAPES]
    for name in names:
        colour, shape = name.split("-")
        os.makedirs(os.path.join(wino, "images"), exist_ok=True)
        draw(rng, shape, colour).save(os.path.join(wino, "images", f"{name}.png"))
    lines = []
    for number in range(400):
        count = [5, 6, 10, 12][number % 4]
        candidates = [names[i] for i in rng.permutation(len(names))[:count]]
        wanted = int(rng.integers(1, 5))
        cue = ["Orange", "boat", "idea", "Train"][int(rng.integers(4))]
        lines.append(json.dumps({"cue": cue, "candidates": candidates, "associations": candidates[:wanted]}))
    write(wino, "test.jsonl", "\n".join(lines) + "\n")

    # WILDS and fairness: the same pictures with metadata
    grouped = {"wilds-fmow": [5, 5, 4], "wilds-iwildcam": [9] * 9, "wilds-camelyon17": [3, 7, 6],
               "dollar_street": [4, 3, 2], "geode": [5, 9]}

    def metadata(name, most):
        values = [int(rng.integers(m)) for m in most]
        if name == "wilds-fmow" and rng.random() < 0.01:
            values[0] = 5                               # the region "Other", a handful of pictures as in FMoW itself
        return values

    for name, most in grouped.items():
        folder = os.path.join(root, f"wds_{name}_test")
        extra = lambda label: {"npy": npy(metadata(name, most), "int64")}
        write_split(folder, "test", classified(folder, 310, extra), shards=1)
        write(folder, "classnames.txt", "\n".join(SHAPES))
        write(folder, "zeroshot_classification_templates.txt", "\n".join(templates))
    folder = os.path.join(root, "wds_fairface_test")
    samples = []
    for _ in range(240):
        race = int(rng.integers(7))
        metadata = [int(rng.integers(9)), int(rng.integers(2)), race, int(race != 1)]
        samples.append((draw(rng, SHAPES[race % 6], colours[metadata[1]]), {"npy": npy(metadata, "int64")}))
    write_split(folder, "test", samples, shards=1)
    words = [f"race:{w}" for w in ["black", "white", "indian", "latino", "middle eastern", "southeast asian", "east asian"]]
    words += [f"gender:{w}" for w in ["male", "female"]] + [f"age:{i}0" for i in range(9)] + [f"toxic:word {i}" for i in range(24)]
    write(folder, "classnames.txt", "\n".join(words))
    write(folder, "zeroshot_classification_templates.txt",
          "\n".join(f"{o}:a photo of a {{c}} person" for o in ["race", "gender", "age", "toxic"]))


def make_model(folder, data):
    """A small ViT in open_clip's form with random weights. Such towers give every input nearly the same feature, so that one
    class would win everywhere: the common direction is taken out of both projections."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    config = {"embed_dim": 64,
              "vision_cfg": {"image_size": 32, "layers": 3, "width": 128, "patch_size": 8, "head_width": 32},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}}
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        from PIL import Image
        pictures = sorted(os.listdir(os.path.join(data, "wds_winogavil_test", "images")))
        resized = [Image.open(os.path.join(data, "wds_winogavil_test", "images", p)).resize((32, 32)) for p in pictures]
        import numpy
        pixels = torch.tensor(numpy.array(resized)).permute(0, 3, 1, 2) / 127.5 - 1
        words = open_clip.get_tokenizer("ViT-B-32")([f"a {c} {s}" for c in COLOURS for s in SHAPES] + SHAPES)
        for features, projection in ((model.encode_image(pixels), model.visual.proj), (model.encode_text(words), model.text_projection)):
            mean = torch.nn.functional.normalize(features.mean(0), dim=0)
            projection.sub_(torch.outer(projection @ mean, mean))
    os.makedirs(folder, exist_ok=True)
    weights = os.path.join(folder, "open_clip_model.safetensors")
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if "attn_mask" not in k}, weights)
    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
                  "interpolation": "bicubic", "resize_mode": "shortest"}
    with open(os.path.join(folder, "open_clip_config.json"), "w") as file:
        json.dump({"model_cfg": config, "preprocess_cfg": preprocess}, file)
    digest = hashlib.sha256(open(weights, "rb").read()).hexdigest()
    handle = {"weights": "open_clip_model.safetensors", "sha256": digest, "model": config, "changes": [],
              "preprocess": preprocess, "tokenizer": "clip", "lineage": {}}
    with open(os.path.join(folder, "checkpoint.json"), "w") as file:
        json.dump(handle, file)


class Theirs:
    """open_clip's model behind CLIP_benchmark's own loaders and metrics."""

    def __init__(self, folder):
        import open_clip
        self.model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    def loader(self, root, name, split="test"):
        import torch
        from clip_benchmark.datasets.builder import build_dataset
        folder = os.path.join(root, f"wds_{name}_test")
        task = "zeroshot_retrieval" if name == "pairs" else "zeroshot_classification"
        dataset = build_dataset(f"wds/{name}", root=folder, transform=self.transform, split=split, download=False, task=task)
        loader = torch.utils.data.DataLoader(dataset.batched(64), batch_size=None, shuffle=False, num_workers=0)
        loader.dataset.classes, loader.dataset.templates = dataset.classes, dataset.templates
        return loader, dataset

    def classification(self, root, name):
        from clip_benchmark.metrics import zeroshot_classification as zsc
        loader, dataset = self.loader(root, name)
        return zsc.evaluate(self.model, loader, self.tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)

    def retrieval(self, root, name):
        from clip_benchmark.metrics import zeroshot_retrieval as zsr
        metrics = zsr.evaluate(self.model, self.loader(root, name)[0], self.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
        metrics["mean_recall@1"] = 0.5 * (metrics["image_retrieval_recall@1"] + metrics["text_retrieval_recall@1"])
        return metrics

    def features(self, root, name, split):
        import torch
        images, labels = [], []
        with torch.no_grad():
            for batch, target in self.loader(root, name, split)[0]:
                images.append(self.model.encode_image(batch, normalize=True))
                labels.append(torch.as_tensor(target))
        return torch.cat(images).numpy(), torch.cat(labels).numpy()

    def winogavil(self, root):
        import numpy
        import torch
        from PIL import Image
        from sklearn.metrics import jaccard_score
        folder = os.path.join(root, "wds_winogavil_test")
        scores, counts = [], []
        with torch.no_grad():
            for line in open(os.path.join(folder, "test.jsonl")):
                row = json.loads(line)
                images = [self.transform(Image.open(os.path.join(folder, "images", f"{n}.png")).convert("RGB")) for n in row["candidates"]]
                cue = row["cue"].lower()
                prompt = ("An " if cue[0] in "aeiou" else "A ") + cue
                image = self.model.encode_image(torch.stack(images), normalize=True)
                text = self.model.encode_text(self.tokenizer([prompt]), normalize=True)
                logits = (text @ image.T).squeeze(0).numpy()
                truth = numpy.isin(row["candidates"], row["associations"])
                chosen = numpy.isin(numpy.arange(len(truth)), numpy.argsort(logits)[-truth.sum():])
                scores.append(jaccard_score(truth, chosen))
                counts.append(len(truth))
        scores, counts = numpy.array(scores), numpy.array(counts)
        return {"avg_jaccard_score": scores.mean(), **{f"jaccard_score_{n}": scores[counts == n].mean() for n in (5, 6, 10, 12)},
                "jaccard_score_5-6": scores[counts <= 6].mean(), "jaccard_score_10-12": scores[counts >= 10].mean()}

    def grouped(self, checkout, root, key):
        """DataComp's evaluator of this task on these predictions."""
        import torch
        from clip_benchmark.metrics import zeroshot_classification as zsc
        sys.path.insert(0, checkout)
        from eval_utils import fairness_eval
        evaluators, questions = fairness_eval.EVALUATORS, fairness_eval.FF_PRED_LABELS
        name = key.replace("fairness/", "").replace("/", "-")
        folder = os.path.join(root, f"wds_{name}_test")
        images, labels, metadata = [], [], []
        with tarfile.open(os.path.join(folder, "test", "0.tar")) as tar, torch.no_grad():
            import numpy
            from PIL import Image
            for member in tar:
                data = tar.extractfile(member).read()
                suffix = member.name.rsplit(".", 1)[1]
                if suffix == "cls":
                    labels.append(int(data))
                elif suffix == "npy":
                    metadata.append(numpy.load(io.BytesIO(data)))
                else:
                    picture = self.transform(Image.open(io.BytesIO(data)).convert("RGB"))
                    images.append(self.model.encode_image(picture[None], normalize=True))
        images = torch.cat(images)
        metadata = torch.tensor(numpy.array(metadata)) if metadata else torch.zeros(len(images), 0)
        read = lambda file: open(os.path.join(folder, file)).read().splitlines()
        classes, templates = read("classnames.txt"), read("zeroshot_classification_templates.txt")
        if key == "fairness/fairface":
            part = lambda lines, o: [line.split(":", 1)[1] for line in lines if line.startswith(o + ":")]
            logits = [images @ zsc.zero_shot_classifier(self.model, self.tokenizer, part(classes, o), part(templates, o), "cpu", amp=False)
                      for o in questions]
            predicted = torch.stack([one.argmax(1) for one in logits], 1)
            return {k: v for k, v in evaluators[key](metadata).eval(predicted, None, metadata).items() if not k.startswith("count")}
        classifier = zsc.zero_shot_classifier(self.model, self.tokenizer, classes, templates, "cpu", amp=False)
        logits = 100.0 * images @ classifier
        predicted = torch.topk(logits, 5, dim=1)[1] if key == "fairness/dollar_street" else logits.argmax(1)
        metrics = evaluators[key](metadata).eval(predicted, torch.tensor(labels), metadata)[0]
        return {k: v for k, v in metrics.items() if v == v}


def ours(binary, model, data, work, tasks):
    out = os.path.join(work, "ours")
    shutil.rmtree(out, ignore_errors=True)
    command = [binary, "eval", "--checkpoint", model, "--output", out, "--bootstrap", "200", "--suite", "datacomp", "--data", data]
    for task in tasks:
        command += ["--tasks", task]
    for name in ("shapes", "colours", "shapes_multilabel", "pairs"):
        command += ["--wds", os.path.join(data, f"wds_{name}_test")]
    command += ["--linear_probe", json.dumps({"wds": os.path.join(data, "wds_shapes_test")})]
    subprocess.run(command, check=True)
    lines = open(os.path.join(out, "eval", "checkpoint", "eval_results.jsonl")).read().splitlines()
    return {row["key"]: row["metrics"] for row in map(json.loads, lines)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--clipmill", default=os.path.join(target, "release", "clipmill"))
    parser.add_argument("--work", help="keep the made-up data and the results here")
    parser.add_argument("--jpeg", action="store_true", help="every third picture is a JPEG: both decoders differ by a level here and there")
    parser.add_argument("--datacomp", help="checkout of mlfoundations/datacomp, for the WILDS and fairness metrics")
    args = parser.parse_args()
    import clip_benchmark  # noqa: F401
    import sklearn
    from importlib.metadata import version
    work = args.work or tempfile.mkdtemp()
    if args.jpeg:
        KINDS.append("jpg")
    data, model = os.path.join(work, "data"), os.path.join(work, "model")
    if not os.path.exists(data):
        make_data(data)
        make_model(model, data)
    tasks = ["misc/winogavil", "wilds/fmow", "wilds/iwildcam", "wilds/camelyon17", "fairness/dollar_street", "fairness/geode", "fairness/fairface"]
    found = ours(os.path.abspath(args.clipmill), model, data, work, tasks)
    peer = Theirs(model)
    expected = {name: peer.classification(data, name) for name in ("shapes", "colours", "shapes_multilabel")}
    expected["pairs"] = peer.retrieval(data, "pairs")
    expected["misc/winogavil"] = peer.winogavil(data)
    from sklearn.linear_model import LogisticRegression
    x, y = peer.features(data, "shapes", "train")
    decay = found["shapes/linear_probe"]["weight_decay"]
    probe = LogisticRegression(C=1 / (decay * len(x)), max_iter=10000, tol=1e-8).fit(x, y)
    x, y = peer.features(data, "shapes", "test")
    expected["shapes/linear_probe"] = {"lp_acc1": float((probe.predict(x) == y).mean())}
    if args.datacomp:
        for task in tasks[1:]:
            expected[task] = peer.grouped(args.datacomp, data, task)
    different = 0
    print(f"{'task':26} {'metric':34} {'peer':>12} {'clipmill':>12}")
    for task, metrics in expected.items():
        for name, theirs in metrics.items():
            mine = found[task].get(name)
            theirs = None if theirs != theirs else float(theirs)
            most = 1e-4 if name == "mean_average_precision" else 1.01 / len(y) if name == "lp_acc1" else 1e-6
            same = mine is None if theirs is None else mine is not None and abs(mine - theirs) <= most
            different += not same
            shown = lambda v: "null" if v is None else f"{v:.6f}"
            if not name.startswith("count") or not same:
                print(f"{task:26} {name:34} {shown(theirs):>12} {shown(mine):>12}{'' if same else '  DIFFERENT'}")
    print(f"open_clip {version('open_clip_torch')}, CLIP_benchmark {version('clip_benchmark')}, scikit-learn {sklearn.__version__}: "
          + ("equal" if not different else f"{different} DIFFERENT"))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
