#!/bin/sh
# Fails when the library needs anything that reads a clock, a file, the environment or chance, or that writes a log.
set -eu
command -v nm >/dev/null || { echo "skipped: nm (binutils) is missing"; exit 77; }
symbols=$(nm -uC "$1")
[ -n "$symbols" ] || { echo "nm shows nothing of $1"; exit 1; }
if echo "$symbols" | grep -E 'clock_gettime|chrono::.*::now|gettimeofday|\btime@|\b(open|openat|read|write|fopen|fread|fwrite|printf|puts)(@|$)|getenv|random_device|\brand\b|basic_[io]?f?stream|spdlog|syslog'; then
  echo "policy/ must stay pure"
  exit 1
fi
