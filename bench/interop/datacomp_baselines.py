"""Runs all seven of DataComp's own baselines and ours over one pool and compares the subset files byte by byte.

    python make_pool.py test_10000.parquet POOL --rows 5000000
    python datacomp_baselines.py CLIPMILL DATACOMP_CHECKOUT POOL LID_MODEL WORDNET [--only NAME,..] [--threads 2] [--width 64] [--plain]

POOL is what make_pool.py wrote; embeddings (`width` numbers a row, f16), centroids, target embeddings and
a list of synsets are made here, seeded, and given to both. Needs fasttext-wheel 0.9.2, nltk 3.8.1
(DataComp's pin: later ones look words up in another way), pandas below 3 (which DataComp's masks do not run
with), numpy, pyarrow, torch, fsspec, tqdm. Embeddings and centroids are multiples of 1/16 and 1/64 within
8 of zero, so that every sum of products is exact in f32 in any order: what differs is a rule, never a
rounding. Disk: the npz take 2 * width + 4 bytes a row, in `--work` or a temporary folder that is removed.
DataComp's code (`baselines/apply_filter.py`) runs unchanged but for what it is given in place of what is
not to be had or has no CPU path:
  - `download` answers with the files of this script, nothing is fetched;
  - `gcld3` is a module whose FindLanguage asks the same fastText model (laion2b);
  - WordNet is read by nltk from the given folder;
  - nearest centroids are computed with the same einsum and argmax on the CPU, and the workers of
    image_based are forked processes of one thread each, `threads` of them.
Two changes only make it faster, `--plain` leaves them out: `wordnet.synsets` remembers its answers
(functools.lru_cache) and the synsets are looked for in a frozenset in the place of a list. The answers
are the same; without them 5 million rows take hours.
Prints one line a baseline as it ends: equal or INVALID, rows, and the seconds of both.
"""
import argparse, glob, hashlib, json, os, shutil, subprocess, sys, tempfile, time, types

p = argparse.ArgumentParser()
p.add_argument("clipmill"); p.add_argument("datacomp"); p.add_argument("pool"); p.add_argument("lid"); p.add_argument("wordnet")
p.add_argument("--only", default=""); p.add_argument("--threads", type=int, default=2); p.add_argument("--work", default="")
p.add_argument("--width", type=int, default=64); p.add_argument("--plain", action="store_true")
a = p.parse_args()
work = a.work or tempfile.mkdtemp()
os.makedirs(work, exist_ok=True)
os.environ["OMP_NUM_THREADS"] = "1"  # workers are processes

import numpy as np, pyarrow.parquet as pq

# What both are given.
pool = os.path.join(work, "pool")
os.makedirs(pool, exist_ok=True)
needs_npz = not a.only or "image" in a.only
rng = np.random.default_rng(0)

def grid(rows, step, kind):
    return (np.round(np.clip(rng.standard_normal((rows, a.width), np.float32), -8, 8) * step) / step).astype(kind)

for number, path in enumerate(sorted(glob.glob(os.path.join(a.pool, "*.parquet")))):
    link = os.path.join(pool, os.path.basename(path))
    if not os.path.exists(link):
        os.symlink(os.path.abspath(path), link)
    if needs_npz:
        rows = pq.ParquetFile(path).metadata.num_rows
        features = grid(rows, 16, np.float16)
        save = np.savez_compressed if number % 2 else np.savez
        save(link.replace(".parquet", ".npz"), b32_img=features[:, :2], l14_img=features)
        del features
centroids = grid(100, 64, np.float32)
targets = [grid(20, 16, np.float32) for _ in range(5)]
np.save(os.path.join(work, "centroids.npy"), centroids)
for i, target in enumerate(targets):
    np.save(os.path.join(work, f"targets_{i}.npy"), target)
offsets = [line.split()[0] for line in open(os.path.join(a.wordnet, "data.noun")) if not line.startswith(" ")]
synsets = os.path.join(work, "synsets.txt")
# Also what is found only when endings are taken off more than once: womens, less, discusses, gentlemens.
twice = ["10787470", "14221138", "07470285", "10127273"]
with open(synsets, "w") as file:
    file.writelines(f"n{offset}\n" for offset in [*offsets[::29], *twice])

# nltk wants a list of names that Debian's package lacks and that no baseline asks for.
nltk_words = os.path.join(work, "nltk_data/corpora/wordnet")
shutil.copytree(a.wordnet, nltk_words, dirs_exist_ok=True)
with open(os.path.join(nltk_words, "lexnames"), "w") as file:
    file.writelines(f"{i:02}\tname{i}\t1\n" for i in range(45))

# DataComp's code, and what stands in for what it imports.
sys.path.insert(0, a.datacomp)
CODE = r'''
import sys, types, os, json, time
job = json.loads(sys.argv[1])
sys.path.insert(0, job["datacomp"])
import numpy as np
import fasttext
fasttext.FastText.np = types.SimpleNamespace(array=lambda x, copy=None: np.asarray(x))
gcld3 = types.ModuleType("gcld3")
class NNetLanguageIdentifier:
    def __init__(self, min_num_bytes, max_num_bytes): self.model = fasttext.load_model(job["lid"])
    def FindLanguage(self, text):
        return types.SimpleNamespace(language=self.model.predict(text)[0][0].split("__label__")[1])
gcld3.NNetLanguageIdentifier = NNetLanguageIdentifier
sys.modules["gcld3"] = gcld3
import nltk
if nltk.__version__ != "3.8.1":
    sys.exit(f"INVALID: nltk {nltk.__version__}; DataComp's requirements.txt pins nltk==3.8.1, which finds other words")
nltk.data.path = [job["work"] + "/nltk_data"]
import nltk.corpus
import torch
torch.set_num_threads(1)
import baselines.utils
FILES = {"fasttext": job["lid"], "imagenet21k_wordnet_ids": job["synsets"], "centroids": job["work"] + "/centroids.npy"}
def download(name, cache=None):
    if name.startswith("in1k_clip_vit_l14_"): return job["work"] + f"/targets_{name[-1]}.npy"
    return FILES["centroids" if name.endswith("_centroids") else name]
baselines.utils.download = download
from baselines import apply_filter as af
torch_load = torch.load
def load(path, *args, **kwargs):
    array = np.load(path)
    return array if path.endswith("centroids.npy") else {"image_features": torch.from_numpy(array)}
torch.load = load
def nearest(features, centroids, batch_size, device):
    labels = torch.zeros(features.shape[0], dtype=torch.long)
    for i in range(0, features.shape[0], batch_size):
        similarity = torch.einsum("ik, jk -> ij", features[i : i + batch_size, :].float(), centroids)
        labels[i : i + batch_size] = torch.argmax(similarity, dim=1).long()
    return labels
af.get_centroid_ids_gpu = nearest
'''
RUN = CODE + r'''
import functools, multiprocessing
# Forked: a spawned worker would not have what stands above.
fork = multiprocessing.get_context("fork")
af.mp = types.SimpleNamespace(Queue=fork.Queue, Process=fork.Process, set_start_method=lambda *x, **y: None)
nltk.download = lambda *x: None
if not job["plain"]:
    # WordNet's files are opened in each worker: what is open before the fork has one offset for all.
    @functools.lru_cache(maxsize=1 << 21)
    def synsets(word): return nltk.corpus.wordnet.synsets(word)
    af.wordnet = types.SimpleNamespace(synsets=synsets)
    of_file = af.load_uids_with_text_entity_helper
    def of_file_in_set(fs_url, entity_set): return of_file(fs_url, frozenset(entity_set))
    af.load_uids_with_text_entity_helper = of_file_in_set
fields = dict(metadata_dir=job["pool"], num_workers=job["threads"], save_path=job["out"], arch=None, threshold=None,
              fraction=None, image_based_scale="small", num_gpus=job["threads"], batch_size=1024)
fields.update(job["args"])
start = time.perf_counter()
af.apply_filter(types.SimpleNamespace(**fields))
print("SECONDS", time.perf_counter() - start)
'''
LID = {"language_model": a.lid}
IMAGE = {**LID, "centroids": work + "/centroids.npy", "targets": [f"{work}/targets_{i}.npy" for i in range(5)]}
CASES = [
    ("no_filter", {"name": "no_filter"}, "no_filter"),
    ("basic_filter", {"name": "basic_filter"}, {"basic_filter": LID}),
    ("clip_score l14 fraction 0.3", {"name": "clip_score", "arch": "l14", "fraction": 0.3}, {"clip_score": {"arch": "l14", "fraction": 0.3}}),
    ("clip_score b32 threshold 0.25", {"name": "clip_score", "arch": "b32", "threshold": 0.25}, {"clip_score": {"arch": "b32", "threshold": 0.25}}),
    ("laion2b", {"name": "laion2b"}, {"laion2b": LID}),
    ("text_based", {"name": "text_based"}, {"text_based": {**LID, "wordnet": a.wordnet, "synsets": synsets}}),
    ("image_based", {"name": "image_based"}, {"image_based": IMAGE}),
    ("image_based_intersect_clip_score", {"name": "image_based_intersect_clip_score", "arch": "l14", "fraction": 0.3},
     {"image_based_intersect_clip_score": {"image_based": IMAGE, "clip_score": {"arch": "l14", "fraction": 0.3}}}),
]

def theirs(args, out):
    job = {"datacomp": a.datacomp, "lid": a.lid, "wordnet": nltk_words, "synsets": synsets, "work": work, "pool": pool,
           "threads": a.threads, "out": out, "args": args, "plain": a.plain}
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return float(done.stdout.split("SECONDS ")[1].split()[0])

def ours(baseline, out):
    recipe = {"version": 1, "name": "baselines", "output": out, "threads": a.threads,
              "stages": [{"pool": {"parquet": [pool + "/*.parquet"]}}, {"select": {"baseline": baseline}}]}
    with open(out + ".yaml", "w") as file:
        json.dump(recipe, file)
    start = time.perf_counter()
    done = subprocess.run([a.clipmill, "run", out + ".yaml"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return time.perf_counter() - start

bad = False
for title, args, baseline in CASES:
    if a.only and args["name"] not in a.only.split(","):
        continue
    slug = title.replace(" ", "_")
    their_file, our_folder = os.path.join(work, slug + ".npy"), os.path.join(work, slug + ".out")
    shutil.rmtree(our_folder, ignore_errors=True)
    try:
        their_seconds = theirs(args, their_file)
        our_seconds = ours(baseline, our_folder)
    except RuntimeError as error:
        print(f"{title}: INVALID, one side failed: {error}", flush=True); bad = True
        continue
    files = [their_file, glob.glob(our_folder + "/**/subset.npy", recursive=True)[0]]
    digests = [hashlib.sha256(open(file, "rb").read()).hexdigest()[:16] for file in files]
    equal = digests[0] == digests[1]
    bad |= not equal
    rows = [len(np.load(file)) for file in files]
    print(f"{title}: {'equal' if equal else 'INVALID: NOT EQUAL'}, {rows[0]} and {rows[1]} rows, {digests[0]}; "
          f"datacomp {their_seconds:.2f} s (without start-up), clipmill {our_seconds:.2f} s (whole process)", flush=True)
if not a.work:
    shutil.rmtree(work)
sys.exit(bad)
