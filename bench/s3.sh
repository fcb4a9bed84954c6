#!/usr/bin/env bash
# The store's promises on an S3 server: races of 16 attempts and attempts that sleep at every step,
# one winner each. Starts moto on loopback (pip install 'moto[server,s3]') and stops it.
# Usage: bench/s3.sh, after cargo test --release --locked --workspace --no-run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')}
newest() { find "$target/release/deps" -maxdepth 1 -name "$1-*" -executable -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
work=$(mktemp -d)
python3 -m moto.server -H 127.0.0.1 -p "$port" >"$work/moto.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
export AWS_ENDPOINT=http://127.0.0.1:$port AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test CLIPMILL_CACHE=$work/cache
python3 - "$AWS_ENDPOINT" <<'PY'
import sys, time, urllib.error, urllib.request
for _ in range(100):
    try:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/clipmill", method="PUT", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}))
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"the bucket: {error}: {error.read()[:300]}")
    except OSError:
        time.sleep(0.1)
PY
export CLIPMILL_S3_TEST=s3://clipmill/test
cd store
for test in s3 fencing; do
  binary=$(newest $test)
  [ -n "$binary" ] || { echo "build the tests first"; exit 1; }
  "$binary" --nocapture
done
