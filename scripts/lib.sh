# Shared by the scripts in this folder; source it, do not run it.
# shellcheck shell=bash disable=SC2034  # the variables are for the scripts that source this file

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Things that are costly to fetch or make and safe to delete: the guest's kernel, the initramfs.
cache=${TIDEPOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidepool}
started=$SECONDS

# say TEXT...: one line of progress with the seconds since the script started.
say() { printf '[%4ds] %s\n' "$((SECONDS - started))" "$*" >&2; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# usage_error TEXT...: wrong arguments end with status 2, like every program of the project.
usage_error() {
  printf '%s: %s\nTry: %s --help\n' "$(basename "$0")" "$*" "$0" >&2
  exit 2
}

# number_option NAME VALUE LEAST MOST, word_option NAME VALUE WORD..., list_option NAME LIST WORD...: what an option may be.
number_option() {
  [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] || usage_error "$1 is a number from $3 to $4, not '$2'"
}
word_option() {
  local name=$1 value=$2
  shift 2
  [[ " $* " == *" $value "* ]] || usage_error "$name is one of: $*; not '$value'"
}
list_option() {
  local name=$1 word
  for word in ${2//,/ }; do word_option "$name" "$word" "${@:3}"; done
}

# Prints the comment block at the top of the calling script: the help text stands in one place.
help_from_header() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$0"; }

# as_root COMMAND...: only package installation and the demo need it.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for: $* (run it as root, or install sudo)"
  fi
}

# One job per core, but never more than memory allows: a compile of the HTTP layer takes about 1 GiB.
jobs_for_this_host() {
  local cores memory_gib
  cores=$(nproc)
  memory_gib=$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  [ "$memory_gib" -ge 1 ] || memory_gib=1
  echo $((cores < memory_gib ? cores : memory_gib))
}
