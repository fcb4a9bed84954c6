"""The experiment's curves and tables: pipelines/experiment.yaml, any number of seeds.

    python3 bench/plot_results.py out/experiment-0 out/experiment-1 out/experiment-2 --svg docs/experiment.svg

Reads what the stages wrote and nothing else: metrics.jsonl and results.jsonl of the trainings,
eval_results.jsonl of the evaluations. Prints the tables of docs/results.md as Markdown: the mean
of the seeds, in brackets the lowest and the highest. With --truth SWAPPED.TXT (written by
swap_captions.py) it counts the swapped captions before and behind the filter. A training that is
missing for one of the seeds is left out whole. Needs Python's own library only.
"""

import argparse
import html
import json
import pathlib
import tarfile

BATCH = 128
WORLDS = {"natural": "Pool as it came", "swapped": "40 % of captions swapped"}
MODELS = {"vit": "ViT", "vitamin": "ViTamin"}
POOLS = {
    "unfiltered": ("unfiltered", "#3f6797"),
    "filtered": ("filtered", "#c0652f"),
    "chance": ("as many by chance", "#8d939c"),
}
SMOOTH = 10
WIDTH, HEIGHT, LEFT, TOP, GAP = 290, 200, 56, 66, 62

STAGES = ("in-style", "cross-style")
MEASURES = [
    ("in-style", "held-out", "image_retrieval_recall@10", "held-out, caption to picture R@10"),
    ("in-style", "held-out", "text_retrieval_recall@10", "held-out, picture to caption R@10"),
    ("in-style", "categories", "acc1", "categories, acc1"),
    ("in-style", "categories", "mean_per_class_recall", "categories, per-class recall"),
    ("cross-style", "emoji of another style", "image_retrieval_recall@10", "other style, caption to picture R@10"),
    ("cross-style", "emoji of another style", "text_retrieval_recall@10", "other style, picture to caption R@10"),
]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def trainings(runs):
    """(world, model, pool) -> a list of stage folders, one for each seed; only whole ones."""
    found = {}
    for world in WORLDS:
        for model in MODELS:
            for pool in POOLS:
                folders = [run / f"{model}-{world}-{pool}" for run in runs]
                if all((folder / "weights.safetensors").exists() for folder in folders):
                    found[world, model, pool] = folders
    return found


def train_loss(folder):
    losses = [row["loss"] for row in lines(folder / "metrics.jsonl")]
    out = []
    # A hundred points at most: what a screen shows.
    for end in range(SMOOTH, len(losses) + 1, max(1, len(losses) // 100)):
        window = losses[end - SMOOTH : end]
        out.append((end * BATCH, sum(window) / SMOOTH))
    return out


def held_out(folder, value):
    rows = [row for row in lines(folder / "results.jsonl") if "clip_val_loss" in row]
    return [(row["samples_seen"], value(row)) for row in rows]


def recall(row):
    return (row["image_to_text_R@10"] + row["text_to_image_R@10"]) / 2


COLUMNS = [
    ("training loss", train_loss),
    ("loss on held-out pairs", lambda folder: held_out(folder, lambda row: row["clip_val_loss"])),
    ("R@10 on held-out pairs, mean of both ways", lambda folder: held_out(folder, recall)),
]


def over_seeds(curves):
    """Mean, lowest and highest where every seed has a point."""
    points = [dict(curve) for curve in curves]
    shared = sorted(set(points[0]).intersection(*points[1:]))
    rows = []
    for x in shared:
        values = [p[x] for p in points]
        rows.append((x, sum(values) / len(values), min(values), max(values)))
    return rows


def ticks(low, high):
    span = high - low
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if span / s <= 6)
    first = -(-low // step)
    return [round((first + i) * step, 6) for i in range(int((high - first * step) / step) + 1)]


def panel(left, top, title, series):
    xs = [row[0] for _, rows in series for row in rows]
    low = min(row[2] for _, rows in series for row in rows)
    high = max(row[3] for _, rows in series for row in rows)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    end = max(xs)

    def at(x, y):
        return f"{left + x / end * WIDTH:.1f},{top + (high - y) / (high - low) * HEIGHT:.1f}"

    out = [f'<text x="{left}" y="{top - 10}" class="title">{html.escape(title)}</text>']
    for y in ticks(low, high):
        height = top + (high - y) / (high - low) * HEIGHT
        out.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{height:.1f}" y2="{height:.1f}" class="grid"/>')
        out.append(f'<text x="{left - 7}" y="{height + 4:.1f}" class="tick" text-anchor="end">{y:g}</text>')
    for i in range(0, 5):
        x = end * i / 4
        place = left + WIDTH * i / 4
        out.append(f'<text x="{place:.1f}" y="{top + HEIGHT + 17}" class="tick" text-anchor="middle">{x:,.0f}</text>')
    for (model, pool), rows in series:
        colour = POOLS[pool][1]
        if rows[0][0] != rows[-1][0]:
            edge = [at(x, hi) for x, _, _, hi in rows] + [at(x, lo) for x, _, lo, _ in reversed(rows)]
            out.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" opacity="0.10"/>')
    for (model, pool), rows in series:
        dash = ' stroke-dasharray="6 4"' if model == "vitamin" else ""
        points = " ".join(at(x, mean) for x, mean, _, _ in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{POOLS[pool][1]}" stroke-width="1.8"{dash}/>')
    return out


def figure(found):
    worlds = [w for w in WORLDS if any(key[0] == w for key in found)]
    width = len(COLUMNS) * (WIDTH + GAP) + 20
    height = len(worlds) * (HEIGHT + 84) + 58
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text{font-family:Helvetica,Arial,sans-serif;fill:#333}.title{font-size:13px}"
        ".world{font-size:14px;font-weight:bold}.tick{font-size:11px;fill:#666}"
        ".grid{stroke:#e4e6e9;stroke-width:1}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for row, world in enumerate(worlds):
        top = TOP + row * (HEIGHT + 84)
        out.append(f'<text x="{LEFT}" y="{top - 34}" class="world">{WORLDS[world]}</text>')
        for column, (title, curve) in enumerate(COLUMNS):
            series = [
                ((model, pool), over_seeds([curve(folder) for folder in folders]))
                for (w, model, pool), folders in found.items()
                if w == world
            ]
            out += panel(LEFT + column * (WIDTH + GAP), top, title, series)
    base = height - 18
    out.append(f'<text x="{LEFT + WIDTH / 2}" y="{base - 20}" class="tick" text-anchor="middle">samples seen</text>')
    x = LEFT
    for name, colour in POOLS.values():
        out.append(f'<line x1="{x}" x2="{x + 26}" y1="{base - 4}" y2="{base - 4}" stroke="{colour}" stroke-width="3"/>')
        out.append(f'<text x="{x + 33}" y="{base}" class="title">{name}</text>')
        x += 60 + 7 * len(name)
    x += 20
    for model, name in MODELS.items():
        dash = ' stroke-dasharray="6 4"' if model == "vitamin" else ""
        out.append(f'<line x1="{x}" x2="{x + 30}" y1="{base - 4}" y2="{base - 4}" stroke="#444" stroke-width="1.8"{dash}/>')
        out.append(f'<text x="{x + 37}" y="{base}" class="title">{name}</text>')
        x += 64 + 7 * len(name)
    out.append(f'<text x="{x + 20}" y="{base}" class="tick">line: mean of the seeds; band: lowest to highest</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def tables(runs, found):
    for world, title in WORLDS.items():
        keys = [key for key in found if key[0] == world]
        ends = [r / f"{world}-{stage}/_commits/_finished.json" for r in runs for stage in STAGES]
        if not keys or not all(end.exists() for end in ends):
            continue
        print(f"\n{title}, {len(runs)} seeds\n\n| measured |", end="")
        print("", " | ".join(f"{MODELS[m]}, {POOLS[p][0]}" for _, m, p in keys), "|")
        print("| --- " * (len(keys) + 1) + "|")
        for stage, task, measure, name in MEASURES:
            cells = []
            for _, model, pool in keys:
                values = []
                for run in runs:
                    folder = run / f"{world}-{stage}" / f"{model}-{world}-{pool}"
                    rows = {row["key"]: row for row in lines(folder / "eval_results.jsonl")}
                    values.append(rows[task]["metrics"][measure])
                mean = sum(values) / len(values)
                cells.append(f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})")
            print(f"| {name} | " + " | ".join(cells) + " |")


def keys_of(folder):
    found = set()
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as tar:
            found.update(name[:32] for name in tar.getnames() if name.endswith(".txt"))
    return found


def filter_quality(runs, truth):
    wrong = {line[:32] for line in truth.read_text().splitlines()}
    for run in runs:
        pool, kept = keys_of(run / "swapped-unfiltered"), keys_of(run / "swapped-filtered")
        dropped = pool - kept
        hit = len(dropped & wrong)
        print(
            f"{run.name}: {len(wrong & pool)} swapped of {len(pool)}, behind the filter "
            f"{len(wrong & kept)} of {len(kept)} ({len(wrong & kept) / len(kept):.3f}); "
            f"precision {hit / len(dropped):.3f}, recall {hit / len(wrong & pool):.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--truth", type=pathlib.Path)
    arguments = parser.parse_args()
    found = trainings(arguments.runs)
    if not found:
        parser.error("no training is finished in every one of these folders")
    if arguments.svg:
        arguments.svg.write_text(figure(found))
    tables(arguments.runs, found)
    if arguments.truth:
        filter_quality(arguments.runs, arguments.truth)


if __name__ == "__main__":
    main()
