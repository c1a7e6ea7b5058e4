#!/usr/bin/env bash
# The VM rig says what the command said and how it ended. Arguments: the repository.
set -euo pipefail
root=$1
cd "$root"

# expect STATUS WHAT COMMAND...: runs it in the rig; leaves its output in `output`.
expect() {
  local wanted=$1 what=$2 got=0
  shift 2
  output=$(tests/vm/run --memory 512 "$@" 2>&1) || got=$?
  [ "$got" -ne 77 ] || { echo "$output" && exit 77; }
  [ "$got" -eq "$wanted" ] || { echo "FAILED: $what: status $got, not $wanted"; echo "$output"; exit 1; }
  echo "ok: $what"
}

# shellcheck disable=SC2016  # expanded in the rig
expect 7 "place, output and status of a command" bash -c '
  echo "in $PWD"; printf "two\nlines\n"; echo changed >README.md; cat README.md
  [ -d /sys/kernel/mm/page_idle ] && [ -d /sys/kernel/mm/damon/admin ] && exit 7'
[[ $output == "in $root"$'\ntwo\nlines\nchanged' ]] || { echo "FAILED: output: $output"; exit 1; }
[ "$(cat README.md)" != changed ] || { echo "FAILED: a file of this host was changed from inside"; exit 1; }
expect 137 "a command that is killed" bash -c 'kill -KILL $$'
expect 125 "a VM that goes down under its command" bash -c 'exec perl -e "syscall 169, 0xfee1dead, 672274793, 0x4321fedc"'
expect 124 "a command that never ends" --timeout 6 sleep 1000
