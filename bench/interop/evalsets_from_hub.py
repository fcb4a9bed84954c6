"""Turns the three test sets that DataComp takes from the Hugging Face hub into folders that `clipmill eval` reads.

    python download_evalsets.py EVALSETS                    DataComp's own script: the other 37
    pip install 'datasets<4' pillow
    python bench/interop/evalsets_from_hub.py EVALSETS      Flickr, MSCOCO and WinoGAViL beside them

Flickr and MSCOCO become WebDataset folders (`dataset_type.txt`, `test/nshards.txt`, `test/N.tar` of a picture and its captions, one
a line); WinoGAViL becomes `test.jsonl` and `images/`. Pictures that are JPEG files stay byte for byte; others become PNG.
"""
import io
import json
import os
import sys
import tarfile

PAIRS = ["flickr_1k_test_image_text_retrieval", "mscoco_2014_5k_test_image_text_retrieval"]
PER_SHARD = 1000


def encoded(picture):
    """The bytes of a `datasets` image that was not decoded ({"bytes", "path"}), or of a decoded one."""
    if isinstance(picture, dict):
        data = picture["bytes"] or open(picture["path"], "rb").read()
        if data[:2] == b"\xff\xd8":
            return "jpg", data
        from PIL import Image
        picture = Image.open(io.BytesIO(data))
    out = io.BytesIO()
    picture.convert("RGB").save(out, "PNG")
    return "png", out.getvalue()


def write_pairs(rows, folder):
    os.makedirs(os.path.join(folder, "test"), exist_ok=True)
    shards = 0
    for start in range(0, len(rows), PER_SHARD):
        with tarfile.open(os.path.join(folder, "test", f"{shards}.tar"), "w") as tar:
            for number in range(start, min(start + PER_SHARD, len(rows))):
                row = rows[number]
                captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
                text = "\n".join(" ".join(caption.split()) for caption in captions)
                for suffix, data in (("txt", text.encode()), encoded(row["image"])):
                    info = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        shards += 1
    for name, text in (("test/nshards.txt", str(shards)), ("dataset_type.txt", "retrieval")):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)


def write_winogavil(rows, folder):
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    written = set()
    with open(os.path.join(folder, "test.jsonl"), "w") as file:
        for row in rows:
            # Names of candidates are words; a slash in one would leave the folder.
            plain = [name.replace("/", "_") for name in row["candidates"]]
            for name, picture in zip(plain, row["candidate_images"]):
                if name not in written:
                    suffix, data = encoded(picture)
                    with open(os.path.join(folder, "images", f"{name}.{suffix}"), "wb") as image:
                        image.write(data)
                    written.add(name)
            associations = [name.replace("/", "_") for name in row["associations"]]
            file.write(json.dumps({"cue": row["cue"], "candidates": plain, "associations": associations}) + "\n")


def main():
    import datasets
    root = sys.argv[1]
    for name in PAIRS:
        rows = datasets.load_dataset(f"nlphuji/{name}", split="test").cast_column("image", datasets.Image(decode=False))
        write_pairs(rows, os.path.join(root, f"wds_{name}_test"))
    write_winogavil(datasets.load_dataset("nlphuji/winogavil", split="test"), os.path.join(root, "wds_winogavil_test"))


if __name__ == "__main__":
    main()
