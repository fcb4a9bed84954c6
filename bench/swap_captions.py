"""Gives a known share of a shard folder's pairs the caption of another of them.

Which pairs: the share with the smallest sha256 of "<seed>/<key>"; among these each takes the caption
of the next, in the order of the digests, so the captions as a whole stay the same. Where the next
one's caption reads the same, the pair counts as not swapped. The same bytes on every machine.

    python3 bench/swap_captions.py IN_FOLDER OUT_FOLDER --share 0.4

Writes the shards under the same names, and swapped.txt with the keys that were swapped.
"""

import argparse
import hashlib
import io
import pathlib
import tarfile


def captions(shards):
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    found[member.name[:-4]] = tar.extractfile(member).read()
    return found


def swaps(texts, share, seed):
    order = sorted(texts, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    chosen = order[: round(share * len(order))]
    taken = {}
    for place, key in enumerate(chosen):
        text = texts[chosen[(place + 1) % len(chosen)]]
        if text != texts[key]:
            taken[key] = text
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--share", type=float, default=0.4, help="share of pairs, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shards = sorted(arguments.source.glob("*.tar"))
    if not shards:
        parser.error(f"{arguments.source} holds no .tar")
    texts = captions(shards)
    taken = swaps(texts, arguments.share, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        with (
            tarfile.open(shard) as source,
            tarfile.open(arguments.output / shard.name, "w", format=tarfile.USTAR_FORMAT) as target,
        ):
            for member in source:
                body = source.extractfile(member).read()
                if member.name.endswith(".txt"):
                    body = taken.get(member.name[:-4], body)
                    member.size = len(body)
                target.addfile(member, io.BytesIO(body))
    (arguments.output / "swapped.txt").write_text("".join(f"{key}\n" for key in sorted(taken)))
    print(f"{len(taken)} of {len(texts)} captions swapped")


if __name__ == "__main__":
    main()
