#!/usr/bin/env bash
# Long runs of the fault tests, in slices that end by themselves: SIGKILLs at random moments, then
# every durable step of a run with every action, then every one and every two calls of an object
# store. Counts what came to pass; the first difference in bytes ends it with exit code 1.
# Usage: bench/faults.sh [SECONDS a slice is started within] [KILLS]; default 3600, 1000.
# CLIPMILL_FAULT_KINDS chooses among "kills steps calls"; CLIPMILL_SLICE_WITH is a command put before
# each slice, such as a lock of the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
budget=${1:-3600}
wanted=${2:-1000}
kinds=${CLIPMILL_FAULT_KINDS:-kills steps calls}
target=${CARGO_TARGET_DIR:-$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')}
newest() { find "$target/release/deps" -maxdepth 1 -name "$1-*" -executable -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2; }
suite=$(newest kill_suite)
calls=$(newest nth_call)
[ -n "$suite" ] && [ -n "$calls" ] || {
  echo "build them first: cargo test --release --locked --workspace --no-run"
  exit 1
}
killed=0 ended=0 faults=0 died=0 called=0
report() {
  echo "$killed runs killed by SIGKILL ($ended had ended), $faults faults at durable steps, $died deaths there, $called faults of a store, in $SECONDS s: the same bytes each time"
}
# One test of a binary; what it printed is in $out. A failure shows it and ends all.
slice() {
  out=$(cd "$1" && ${CLIPMILL_SLICE_WITH:-} "$2" --exact "$3" --nocapture 2>&1) || {
    echo "$out"
    report
    exit 1
  }
}
# The number before these words.
before() { echo "$out" | grep -oE "[0-9]+ $1" | head -1 | cut -d' ' -f1; }

if [[ $kinds == *kills* ]]; then
  while [ "$killed" -lt "$wanted" ] && [ "$SECONDS" -lt "$budget" ]; do
    export CLIPMILL_KILLS=200 CLIPMILL_KILL_SEED=$((killed * 7919 + 4242))
    slice pipelines "$suite" killed_a_hundred_times_it_ends_with_the_same_bytes
    killed=$((killed + $(before 'runs killed')))
    ended=$((ended + $(before 'had ended')))
    report
  done
fi
export CLIPMILL_FAULT_ALL=1
if [[ $kinds == *steps* ]]; then
  first=1
  while [ "$SECONDS" -lt "$budget" ]; do
    export CLIPMILL_FAULT_FIRST=$first CLIPMILL_FAULT_LAST=$((first + 99))
    slice pipelines "$suite" failing_at_every_durable_step_it_says_so_and_a_second_run_ends_it
    steps=$(before 'faults at durable')
    faults=$((faults + steps))
    slice pipelines "$suite" dying_at_durable_steps_a_second_run_ends_it
    died=$((died + $(before 'faults at durable')))
    report
    [ "$steps" -ge 300 ] || break
    first=$((first + 100))
  done
fi
if [[ $kinds == *calls* ]] && [ "$SECONDS" -lt "$budget" ]; then
  # The local copies of uploads: thousands of syncs that show nothing here.
  if [ -d /dev/shm ]; then export TMPDIR=/dev/shm; fi
  slice store "$calls" whatever_call_of_a_run_goes_wrong_a_second_run_ends_with_the_same_objects
  called=$(before 'faults in runs')
fi
report
