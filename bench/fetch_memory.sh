#!/usr/bin/env bash
# Peak memory of `clipmill fetch` over a link list that is far larger than memory may be: all rows
# but one in 10,000 are stopped by an opt-out list of 50,000 domains, the rest come from a server on
# loopback.
#
#     ROWS=20000000 bench/fetch_memory.sh path/to/clipmill
#
# Prints the time and the largest resident set of the run, and what became of the rows. Fails above
# 600 MB, or when not every row is accounted for.
set -euo pipefail
clipmill=$(realpath "${1:?the clipmill binary}")
rows=${ROWS:-20000000}
work=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$work"' EXIT

awk -v rows="$rows" 'BEGIN {
    for (i = 0; i < rows; i++)
        if (i % 10000 == 5000) printf "http://kept%d.example/%d.png\n", i % 97, i
        else printf "http://img.h%d.example/%d/photo.jpg\n", i % 50000, i
}' | gzip -1 > "$work/links.txt.gz"
awk 'BEGIN { for (i = 0; i < 50000; i++) printf "h%d.example\n", i }' > "$work/opt-out.txt"

cat > "$work/serve.py" <<'PY'
import struct, sys, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(64 * 3)) for y in range(64))
png = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
       + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path.endswith(".png")
        body = png if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1], "w") as port:
    port.write(str(server.server_port))
server.serve_forever()
PY
python3 "$work/serve.py" "$work/port" &
server=$!
until [ -s "$work/port" ]; do sleep 0.1; done

python3 - "$clipmill" "$work" "$(cat "$work/port")" "$rows" <<'PY'
import json, resource, subprocess, sys, time
clipmill, work, port, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
began = time.time()
out = subprocess.run(
    [clipmill, "--json", "fetch", "--url_list", f"{work}/links.txt.gz", "--output", f"{work}/out",
     "--opt_out", f"{{domains: [{work}/opt-out.txt]}}", "--dial", f'{{"*": "127.0.0.1:{port}"}}',
     "--image_size", "64"], check=True, stdout=subprocess.PIPE)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
stages = {stage["kind"]: stage["counts"] for stage in json.loads(out.stdout)["stages"]}
counts = stages["fetch"]
print(f"{rows} rows: {time.time() - began:.0f} s, peak {peak:.0f} MB, {json.dumps(counts)}")
kept = len(range(5000, rows, 10000))
assert counts["in"] == rows and counts["kept"] == kept, counts
assert counts["dropped"] == {"opt_out": rows - kept}, counts
assert peak < 600, f"{peak:.0f} MB"
PY
