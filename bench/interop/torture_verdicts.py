"""Lays our verdicts on broken and awkward pictures beside Pillow's and OpenCV's.

    cargo run --release -p clipmill-pixels --example verdicts -- FOLDER > ours.jsonl
    python bench/interop/torture_verdicts.py ours.jsonl FOLDER/peer_verdicts.json

Prints a table in Markdown: what we say, what each of the two says, how many files, which. Files on which all
three agree are counted in the first rows; of accepted files sizes are compared with both, and pixels with
Pillow's where the format is lossless. A second table has the slowest and the largest. `--all` names every
file, else a row names eight at most.
"""

import collections
import json
import sys


def says(verdict):
    return "reads" if verdict["ok"] else "refuses"


def kind(ours):
    """What we read it as, or why we refuse it; of a format that is not read, which one."""
    if ours["ok"] or ours["reason"] != "unsupported_format":
        return ours.get("format") or ours["reason"]
    first = ours["detail"].removeprefix("starts with ")
    marks = [("BM", "BMP"), ("II", "TIFF"), ("MM", "TIFF"), (r"\x00\x00\x01\x00", "ICO"), (r"\x00\x00\x00", "AVIF")]
    return "unsupported_format: " + next((name for mark, name in marks if first.startswith(mark)), "other")


def main():
    everything = "--all" in sys.argv
    ours_path, peers_path = [a for a in sys.argv[1:] if a != "--all"]
    ours = [json.loads(line) for line in open(ours_path)]
    peers = json.load(open(peers_path))["files"]
    assert {o["file"] for o in ours} == set(peers), "other files than the peers'"
    rows = collections.defaultdict(list)
    pixels = collections.Counter()
    for o in ours:
        pillow, opencv = peers[o["file"]]["pillow"], peers[o["file"]]["opencv"]
        rows[(o["ok"], kind(o), says(pillow), says(opencv))].append(o["file"])
        if o["ok"] and pillow["ok"]:
            assert o["size"] == pillow["size"], o["file"]
            lossy = pillow["format"] in ("JPEG", "MPO")
            same = o["rgb_sha256"] == pillow["rgb_sha256"]
            pixels["JPEG" if lossy else "lossless and WebP", same] += 1
        if o["ok"] and opencv["ok"]:
            assert o["size"] == opencv["size"], o["file"]
    print("| we | Pillow | OpenCV | files | which |")
    print("| --- | --- | --- | ---: | --- |")
    for (ok, word, pillow, opencv), files in sorted(rows.items(), key=lambda r: (not r[0][0], -len(r[1]))):
        names = [f.rsplit("/", 1)[-1] for f in files]
        named = ", ".join(f"`{n}`" for n in names) if everything or len(names) <= 8 else ""
        print(f"| {'reads' if ok else 'refuses'}: `{word}` | {pillow} | {opencv} | {len(files)} | {named} |")
    print()
    for (files, same), count in sorted(pixels.items()):
        print(f"{files}: pixels {'equal to' if same else 'other than'} Pillow's in {count}")
    print()
    for field, unit in [("ms", "ms"), ("peak_kib", "KiB")]:
        for o in sorted(ours, key=lambda o: -(o[field] or 0))[:3]:
            print(f"{o[field]:.0f} {unit}: {o['file']}")


if __name__ == "__main__":
    main()
