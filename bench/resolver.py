"""What names cost a fetch: `resolver: own` against `resolver: system`, and the cache of names, against a name server on loopback.

    cargo build --release
    python bench/make_photos.py PHOTOS 4000
    sudo python bench/resolver.py PHOTOS [--names 2000] [--delay 20] [--clipmill target/release/clipmill]

Starts a name server on 127.0.0.1:53 that answers every name with 127.0.0.1 after --delay milliseconds (a recursive server far
away), and runs the program in a mount namespace of its own whose /etc/resolv.conf names that server: so it needs root, Linux,
and a free port 53. One small picture from nginx on loopback per URL; every URL must be kept by every run, else INVALID.
The best of --rounds, which take turns. Cases: one name a URL (nothing to remember), and ten URLs a name.
"""
import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import socket
import heapq

from fetch_vs_img2dataset import serve
from isolation import run

RECIPE = """version: 1
name: resolver
output: {out}
threads: 2
stages:
  - link_list: {{url_list: [{links}], caption_col: caption}}
  - fetch:
      image_size: 64
      resize_mode: keep_ratio
      number_sample_per_shard: 10000
      robots: false
      allow_loopback: [{hosts}]
      ports: [{port}]
      max_per_host: 256
      max_per_ip: 256
      thread_count: 256
      retries: 0
      resolver: {resolver}
"""


class NameServer(threading.Thread):
    """Answers A with 127.0.0.1, anything else with nothing, after a while."""

    def __init__(self, delay):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 53))
        self.delay, self.asked = delay, 0

    def run(self):
        late = []
        while True:
            wait = max(0.0005, late[0][0] - time.monotonic()) if late else 1.0
            self.socket.settimeout(wait)
            try:
                question, peer = self.socket.recvfrom(1500)
                self.asked += 1
                heapq.heappush(late, (time.monotonic() + self.delay, self.asked, self.answer(question), peer))
            except TimeoutError:
                pass
            while late and late[0][0] <= time.monotonic():
                _, _, answer, peer = heapq.heappop(late)
                self.socket.sendto(answer, peer)

    @staticmethod
    def answer(question):
        end = 12
        while question[end]:
            end += 1 + question[end]
        end += 5
        wanted = question[end - 4 : end - 2]
        count = 1 if wanted == b"\x00\x01" else 0
        head = question[:2] + b"\x81\x80" + b"\x00\x01" + bytes([0, count]) + b"\x00\x00\x00\x00"
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x7f\x00\x00\x01" if count else b""
        return head + question[12:end] + record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--names", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--clipmill", default=os.path.join(target, "release", "clipmill"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        # A namespace of its own, so that no other program's names are touched.
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv, "--inside"])
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        conf = os.path.join(folder, "resolv.conf")
        with open(conf, "w") as file:
            file.write("nameserver 127.0.0.1\n")
        subprocess.run(["mount", "--bind", conf, os.path.realpath("/etc/resolv.conf")], check=True)
        names = NameServer(args.delay / 1000)
        names.start()
        server, port = serve(args.photos, folder)
        try:
            return measure(args, folder, port, names)
        finally:
            server.terminate()
            server.wait()


def measure(args, folder, port, server):
    photo = sorted(name for name in os.listdir(args.photos) if name.endswith(".jpg"))[0]
    print(f"{args.names} URLs, name server with {args.delay:.0f} ms")
    for each in (1, 10):
        hosts = [f"h{number}.bench.test" for number in range(args.names // each)]
        links = os.path.join(folder, "links.csv")
        with open(links, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["url", "caption"])
            for number in range(args.names):
                url = f"http://{hosts[number % len(hosts)]}:{port}/{photo}?{number}"
                rows.writerow([url, "a photograph"])
        best = {}
        for _ in range(args.rounds):
            for resolver in ("own", "system"):
                out = os.path.join(folder, "out")
                recipe = os.path.join(folder, "resolver.yaml")
                with open(recipe, "w") as file:
                    file.write(RECIPE.format(out=out, links=links, hosts=", ".join(hosts), port=port, resolver=resolver))
                before = server.asked
                seconds, cpu, _, counts = run(args.clipmill, recipe)
                if counts["kept"] != args.names:
                    print(f"INVALID: {counts}")
                    return 1
                found = (seconds, cpu, server.asked - before)
                best[resolver] = min(best.get(resolver, found), found)
                shutil.rmtree(out)
        for resolver, (seconds, cpu, asked) in best.items():
            rate = args.names / seconds
            print(f"  {each:2} URLs a name, {resolver:6}: {rate:6.0f} pictures/s, {asked} questions, {cpu:.1f} s of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
