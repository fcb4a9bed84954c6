"""Metadata filters and exact uid dedup: clipmill against pandas, polars and DuckDB on the same rule, in one go.

    cargo build --release
    pip install pandas polars duckdb pyarrow numpy
    python bench/select_vs_engines.py CLIPMILL --pool POOL --peers pool_filter.py [--filter basic,clip] [--rounds 3]
    python bench/select_vs_engines.py CLIPMILL --uids UIDS [--rounds 3] [--memory_limit 1GB]

POOL and UIDS are what make_pool.py wrote; pool_filter.py is the peers' script, each case a process of its own. Both write the sorted
subset file; its sha256 must be the same, else INVALID is printed and the exit code is 1. The peers' seconds are without the start of the
interpreter, ours are of the whole process. UIDS: the distinct uids of all rows, sorted, as a subset file (`select: {distinct: true}`).
"""
import argparse, glob, hashlib, json, os, resource, shutil, subprocess, sys, tempfile, time

p = argparse.ArgumentParser()
p.add_argument("clipmill"); p.add_argument("--pool"); p.add_argument("--uids"); p.add_argument("--peers"); p.add_argument("--filter", default="basic,clip")
p.add_argument("--engine", default="pandas,polars,duckdb"); p.add_argument("--rounds", type=int, default=3); p.add_argument("--threads", type=int, default=2)
p.add_argument("--memory_limit", default=""); p.add_argument("--one", help=argparse.SUPPRESS)
a = p.parse_args()

if a.one:  # distinct uids with one engine, in a process of its own
    import numpy as np, pyarrow as pa
    os.environ["POLARS_MAX_THREADS"] = str(a.threads)
    start = time.perf_counter()
    if a.one == "duckdb":
        import duckdb
        db = duckdb.connect(); db.execute(f"SET threads={a.threads}; SET preserve_insertion_order=false")
        if a.memory_limit: db.execute(f"SET memory_limit='{a.memory_limit}'; SET temp_directory='{tempfile.mkdtemp()}'")
        uids = db.sql(f"SELECT DISTINCT uid FROM read_parquet('{a.uids}/*.parquet') ORDER BY uid").to_arrow_table()["uid"]
    else:
        import polars as pl
        uids = pl.scan_parquet(a.uids + "/*.parquet").select("uid").unique().collect(engine="streaming")["uid"].sort().to_arrow().cast(pa.string())
        uids = pa.chunked_array([uids])
    fixed = pa.concat_arrays([chunk.cast(pa.binary()) for chunk in uids.chunks]).cast(pa.binary(32))
    hexes = fixed.buffers()[1].to_pybytes()[32 * fixed.offset:32 * (fixed.offset + len(fixed))]
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, np.frombuffer(bytes.fromhex(hexes.decode()), ">u8").astype("<u8").view("u8,u8"))
        seconds = time.perf_counter() - start
        digest = hashlib.sha256(open(file.name, "rb").read()).hexdigest()[:16]
    print(f"{a.one}: kept {len(fixed)}, {seconds:.2f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, result {digest}")
    sys.exit()

work = tempfile.mkdtemp()
RULES = {"basic": {"baseline": "basic_filter_without_language"}, "clip": {"baseline": {"clip_score": {"arch": "l14", "fraction": 0.3}}}, "distinct": {"distinct": True}}

def ours(rule, pool):
    out = os.path.join(work, rule)
    shutil.rmtree(out, ignore_errors=True)
    with open(out + ".yaml", "w") as file:
        json.dump({"version": 1, "name": rule, "output": out, "threads": a.threads, "stages": [{"pool": {"parquet": [pool + "/*.parquet"]}}, {"select": RULES[rule]}]}, file)
    start = time.perf_counter()
    child = subprocess.Popen([a.clipmill, "run", out + ".yaml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"clipmill ended with {status}")
    content = open(glob.glob(out + "/**/subset.npy", recursive=True)[0], "rb").read()
    return seconds, usage.ru_maxrss / 2**20, hashlib.sha256(content).hexdigest()[:16]

def rows_of(pool):
    import pyarrow.parquet as pq
    return sum(pq.ParquetFile(path).metadata.num_rows for path in glob.glob(pool + "/*.parquet"))

bad = False
for rule, pool in [(rule, a.pool) for rule in a.filter.split(",") if a.pool] + [("distinct", a.uids)] * bool(a.uids):
    rows, digests = rows_of(pool), set()
    for number in range(a.rounds):
        seconds, peak, digest = ours(rule, pool)
        digests.add(digest)
        print(f"clipmill {rule} threads {a.threads}: {rows} rows, {seconds:.2f} s, {rows / seconds / 1e6:.2f} M rows/s, peak {peak:.2f} GiB, result {digest}", flush=True)
        for engine in filter(None, a.engine.split(",")):
            if rule == "distinct" and engine == "pandas": continue
            command = ([sys.executable, __file__, a.clipmill, "--uids", pool, "--one", engine, "--memory_limit", a.memory_limit] if rule == "distinct" else
                       [sys.executable, a.peers, pool, "--filter", rule, "--engine", engine, "--runs", "1", "--threads", str(a.threads)])
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            digests.add(line.split()[-1])
            print(line, flush=True)
    if len(digests) != 1:
        print("INVALID: results differ"); bad = True
shutil.rmtree(work)
sys.exit(bad)
