"""Image links of one WAT file: clipmill against cc2dataset, one core each, in one go.

    cargo build --release -p clipmill-ingest --example links
    pip install fastwarc pysimdjson loguru fsspec fire pyarrow && pip install --no-deps cc2dataset
    python bench/links_vs_cc2dataset.py FILE.wat.gz [--times 100] [--rounds 3] [--links target/release/examples/links]

The file is repeated `--times` times (gzip members can simply be appended), so that start-up does not count.
First the rows: clipmill's parquet must hold exactly cc2dataset's rows after equal uids became one (the row of the smallest
cc_filename, then the first in the file), in all five columns; else INVALID is printed and the exit code is 1.
Then MB of gzip a second of wall and of CPU time, the best of the rounds. clipmill's time includes deduplication and
writing the parquet file; cc2dataset's stops where its rows are in a Python list.
"""
import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import types


class Anything:
    """Stands for all of Spark, which the extraction itself does not need."""

    def __getattr__(self, name):
        return Anything()

    def __call__(self, *args, **kwargs):
        return Anything()


def peer_extract():
    for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions", "pyspark.sql.types"):
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: Anything()
        sys.modules[name] = module
    from cc2dataset.main import extract_documents_from_wat

    return extract_documents_from_wat


COLUMNS = ["uid", "url", "alt", "cc_filename", "page_url"]


def timed(work, who):
    cpu, wall = resource.getrusage(who), time.perf_counter()
    result = work()
    wall = time.perf_counter() - wall
    after = resource.getrusage(who)
    return result, wall, after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime


def one_row_a_uid(rows):
    first = {}
    for order, row in enumerate(rows):
        rank = (row["cc_filename"], order)
        if row["uid"] not in first or rank < first[row["uid"]][0]:
            first[row["uid"]] = (rank, tuple(row[column] for column in COLUMNS))
    return {row for _, row in first.values()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wat")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--links", default=os.path.join(target, "release", "examples", "links"))
    args = parser.parse_args()
    import pyarrow.parquet

    extract = peer_extract()
    with tempfile.TemporaryDirectory() as folder:
        wat, out = os.path.join(folder, "big.wat.gz"), os.path.join(folder, "links.parquet")
        with open(wat, "wb") as big:
            for _ in range(args.times):
                with open(args.wat, "rb") as one:
                    shutil.copyfileobj(one, big)
        megabytes = os.path.getsize(wat) / 1e6

        def ours():
            command = [args.links, out, wat]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        def theirs():
            with open(wat, "rb") as stream:
                return extract(stream, "image")

        best = {}
        for _ in range(args.rounds):
            said, *our_time = timed(ours, resource.RUSAGE_CHILDREN)
            peer_rows, *peer_time = timed(theirs, resource.RUSAGE_SELF)
            for name, spent in (("clipmill", our_time), ("cc2dataset", peer_time)):
                best[name] = [min(pair) for pair in zip(best.get(name, spent), spent)]
        print(said)
        counted = int(re.search(r"rows (\d+)", said).group(1))
        table = pyarrow.parquet.read_table(out)
        our_rows = list(zip(*(table[column].to_pylist() for column in COLUMNS)))
        expected = one_row_a_uid(peer_rows)
        same = table.column_names == COLUMNS and counted == len(peer_rows)
        same = same and len(our_rows) == len(expected) and set(our_rows) == expected
        if not same:
            print(f"INVALID: rows {counted} against {len(peer_rows)}, distinct {len(our_rows)} against {len(expected)}, "
                  f"in common {len(expected & set(our_rows))}")
            return 1
        print(f"same rows: {counted}, of them {len(our_rows)} with distinct uids, in all of {', '.join(COLUMNS)}")
        for name, (wall, cpu) in best.items():
            print(f"{name}: {megabytes / wall:.1f} MB/s of gzip by the clock, {megabytes / cpu:.1f} by CPU time, "
                  f"{counted / wall:.0f} rows/s ({megabytes:.0f} MB, best of {args.rounds})")
        print(f"times the peer: {best['cc2dataset'][0] / best['clipmill'][0]:.1f} by the clock, "
              f"{best['cc2dataset'][1] / best['clipmill'][1]:.1f} by CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
