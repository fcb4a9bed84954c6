#!/usr/bin/env bash
# A fetcher against a hostile server on loopback for an hour (or SECONDS): memory, open files and
# threads of the process once a minute, and at the end the same check as in the tests.
#   bash bench/soak.sh [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CLIPMILL_SOAK_SECONDS="${1:-3600}"
exec cargo test --release --locked -p clipmill-ingest --test fetch -- \
  --exact soak::memory_and_file_handles_stay_the_same_over_many_thousands_of_hostile_urls --nocapture
