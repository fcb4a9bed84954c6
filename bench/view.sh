#!/usr/bin/env bash
# The viewer in a browser without a window: a screenshot and what the page says.
#
#   bench/view.sh CLIPMILL DIR PICTURE.png [QUERY] [DARK]
#
# QUERY is the part of the address behind `?`, such as `q=flag&reason=(kept)`; DARK asks for the dark
# colours. Needs chromium. The page is on loopback and loads nothing from elsewhere.
set -euo pipefail
clipmill=$1 folder=$2 picture=$3 query=${4:-} dark=${5:-}
work=$(mktemp -d)
"$clipmill" view "$folder" 2> "$work/log" &
viewer=$!
trap 'kill $viewer 2> /dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    url=$(grep -o 'http://[^ ]*' "$work/log" || true)
    [ -n "$url" ] && break
    sleep 0.1
done
flags=(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --hide-scrollbars --window-size=1280,1000 --virtual-time-budget=8000)
[ -n "$dark" ] && flags+=(--blink-settings=preferredColorScheme=0)
chromium "${flags[@]}" --user-data-dir="$work/one" --screenshot="$picture" "$url?$query" 2> /dev/null
chromium "${flags[@]}" --user-data-dir="$work/two" --dump-dom "$url?$query" 2> /dev/null > "$work/dom"
cards=$(grep -o '<article' "$work/dom" | wc -l || true)
count=$(grep -o '<p id="count"[^>]*>.*</p>' "$work/dom" | sed 's/<[^>]*>//g' | head -1 || true)
echo "$count; $cards cards; screenshot: $picture"
[ "$cards" -gt 0 ]
