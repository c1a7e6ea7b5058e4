#!/usr/bin/env bash
# The test guest boots as an unprivileged user, loads its balloon, fills its memory and finds every page right.
# Arguments: the repository. Exit status 77: cannot run here, with the reason on standard output.
set -euo pipefail
root=$1
cache=${TIDEPOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidepool}
command -v qemu-system-x86_64 >/dev/null || { echo "SKIP: no QEMU here (scripts/setup --demo installs it)"; exit 77; }
[ -s "$cache/guest/vmlinuz" ] || { echo "SKIP: no guest kernel here (scripts/setup --demo fetches it)"; exit 77; }

work=$(mktemp -d)
cleanup() {
  [ -z "${qemu:-}" ] || { kill "$qemu" 2>/dev/null && wait "$qemu" 2>/dev/null; } || true
  rm -rf "$work"
}
trap cleanup EXIT
chmod 755 "$work"

"$root/scripts/guest" run --memory 256 --fill 128 --console "$work/console" &
qemu=$!
for _ in $(seq 100); do [ -p "$work/console/console.out" ] && break; sleep 0.1; done
exec 5<>"$work/console/console.in" 6<>"$work/console/console.out"

# expect PATTERN SECONDS: reads the console until a line matches.
expect() {
  local line deadline=$((SECONDS + $2))
  while [ "$SECONDS" -lt "$deadline" ]; do
    kill -0 "$qemu" || { echo "QEMU ended"; return 1; }
    IFS= read -r -t 5 -u 6 line || continue
    echo "guest: $line"
    case $line in *MISMATCH* | *"cannot load"* | *"cannot mount"* | *FAILED*) return 1 ;; esac
    # shellcheck disable=SC2254  # a pattern on purpose
    case $line in $1*) return 0 ;; esac
  done
  echo "no line '$1' within $2 s"
  return 1
}

expect "guest ready pages=32768" 240
echo pass >&5
expect "pass 1 ok pages=32768" 240
user=$(stat -c %U "/proc/$qemu")
[ "$(id -u)" -ne 0 ] || [ "$user" = nobody ] || { echo "QEMU runs as $user"; exit 1; }
echo off >&5
wait "$qemu"
