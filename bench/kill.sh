#!/usr/bin/env bash
# Kills a run with SIGKILL at ten random moments, resumes it, and compares the shards with those of
# an undisturbed run. Moments lie in the first half of its time, since a run that ended cannot be killed. Usage: bench/kill.sh [RECIPE.yaml] [KILLS]; default: pipelines/replay.yaml, 10.
set -euo pipefail
recipe=${1:-pipelines/replay.yaml}
kills=${2:-10}
bin=${CLIPMILL:-$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release/clipmill}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
start=$(date +%s%N)
"$bin" run "$recipe" --output "$work/whole" >/dev/null 2>&1
whole=$((($(date +%s%N) - start) / 1000000))
echo "undisturbed: $whole ms"
alive=0
for kill in $(seq "$kills"); do
  "$bin" run "$recipe" --output "$work/killed" >/dev/null 2>&1 &
  pid=$!
  sleep "$(awk -v w="$whole" -v s="$RANDOM" 'BEGIN { print (s / 32768) * w / 2000 }')"
  if kill -9 "$pid" 2>/dev/null; then alive=$((alive + 1)); fi
  wait "$pid" 2>/dev/null || true
done
"$bin" run "$recipe" --output "$work/killed" >/dev/null 2>"$work/stderr" || { cat "$work/stderr"; exit 1; }
files() { (cd "$1" && find . -type f -not -path '*/_*' -not -path './.clipmill/*' -not -name 'report.html' | sort | xargs sha256sum); }
if diff <(files "$work/whole") <(files "$work/killed") >/dev/null; then
  echo "$alive of $kills runs were killed alive; $(files "$work/killed" | wc -l) files, byte for byte the same"
else
  echo "DIFFERENT after $alive kills:"
  diff <(files "$work/whole") <(files "$work/killed") | head
  exit 1
fi
