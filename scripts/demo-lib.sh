# The demo's tools: processes of its own, numbers from them, the live table. Sourced by scripts/demo after scripts/lib.sh.
# shellcheck shell=bash disable=SC2154  # work, bin, agent_socket belong to scripts/demo

declare -A pid_of=()

# start NAME COMMAND...: in the background, output into $work/NAME.log, in a session of its own so that Ctrl-C reaches the
# demo alone and everything ends in order.
start() {
  local name=$1
  shift
  setsid "$@" >"$work/$name.log" 2>&1 </dev/null &
  pid_of[$name]=$!
}

alive() { [ -n "${pid_of[$1]:-}" ] && kill -0 "${pid_of[$1]}" 2>/dev/null; }

# stop NAME [SECONDS]: asks, waits, insists. Only ever by the pid of something that start() started.
stop() {
  local name=$1 patience=${2:-10} deadline
  alive "$name" || return 0
  kill -TERM "${pid_of[$name]}" 2>/dev/null || true
  deadline=$((SECONDS + patience))
  while alive "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
  if alive "$name"; then
    say "$name does not end; killing it"
    kill -KILL "${pid_of[$name]}" 2>/dev/null || true
  fi
  wait "${pid_of[$name]}" 2>/dev/null || true
}

# wait_until SECONDS COMMAND...: until the command succeeds; fails when it never does.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

# has_lines FILE PATTERN COUNT: at least COUNT lines match.
has_lines() { [ "$(grep -cE "$2" "$1" 2>/dev/null || true)" -ge "$3" ]; }

tidectl() { "$bin/tidectl" --socket "$agent_socket" "$@"; }

gib() { awk -v bytes="$1" 'BEGIN {printf "%.2f", bytes / 1073741824}'; }
# ratio A B: A / B in percent, "-" when B is nothing.
percent() { awk -v a="$1" -v b="$2" 'BEGIN {if (b > 0) printf "%.0f%%", 100 * a / b; else printf "-"}'; }

# All adopted VMs as a JSON array, whatever the envelope.
vms_json() { tidectl vm list -o json | jq -c 'if type == "array" then . else (.items // .vms) end'; }
# vm_number NAME FILTER: one number of one VM.
vm_number() { vms_json | jq -r --arg name "$1" ".[] | select(.name == \$name) | $2"; }

# One figure from the client's last interim report.
client_figure() { grep '"interim"' "$work/client.log" | tail -n 1 | jq -r "$1"; }
ask_client() {
  local before
  before=$(grep -c '"interim"' "$work/client.log" || true)
  kill -USR1 "${pid_of[client]}" 2>/dev/null || return 0
  wait_until 30 has_lines "$work/client.log" '"interim"' $((before + 1)) || die "the cache client does not answer"
}

# guest_median FIELD FROM_LINE: the median of a field over the guest's "work" lines after a line number.
guest_median() {
  tail -n "+$(($2 + 1))" "$work/console.log" | sed -n "s/^work .*$1=\([0-9.]*\).*/\1/p" | sort -n |
    awk '{value[NR] = $1} END {if (NR) print value[int((NR + 1) / 2)]; else print "-"}'
}

table_header() {
  printf '%6s  %-8s %8s %8s %8s %8s %8s %9s %9s %7s\n' \
    "" VM promised touched resident far faults/s "p50 us" "p99 us" stall
}
# One line per VM, GiB; latencies are the pager's: from the fault to the wake-up.
table_rows() {
  vms_json | jq -r --arg t "$((SECONDS - started))s" '
    def g: . / 1073741824 * 100 | round / 100;
    .[] | [$t, .name, (.memory.promised_bytes | g),
           ((.memory.promised_bytes - .memory.untouched_bytes - .memory.released_bytes) | g),
           (.memory.in_dram_bytes | g), (.memory.far_bytes | g), (.faults_per_second | round),
           (.fault_p50_ns / 1000 | round), (.fault_p99_ns / 1000 | round), "\(.stall * 1000 | round / 10)%"] | @tsv' |
    while IFS=$'\t' read -r t name promised touched resident far faults p50 p99 stall; do
      printf '%6s  %-8s %8s %8s %8s %8s %8s %9s %9s %7s\n' \
        "$t" "$name" "$promised" "$touched" "$resident" "$far" "$faults" "$p50" "$p99" "$stall"
    done
}

# What a process looks like from outside, without what changes by itself: to be the same after release as before adoption.
fingerprint() {
  local pid=$1
  find "/proc/$pid/fd" -mindepth 1 -printf '%l\n' | sed -E 's/:\[[0-9]+\]//' | grep -E 'userfaultfd|io_uring' | sort
  find "/proc/$pid/task" -mindepth 1 -maxdepth 1 -exec cat {}/comm \; 2>/dev/null | grep -c '^iou-' || true
  # "um", "uw", "ui": memory registered with a userfaultfd.
  grep '^VmFlags' "/proc/$pid/smaps" | grep -cE ' (um|uw|ui)( |$)' || true
}

# Resident memory of processes, KiB, shared pages by their share.
pss_kib() {
  local total=0 pid value
  for pid in "$@"; do
    value=$(awk '/^Pss:/ {print $2; exit}' "/proc/$pid/smaps_rollup" 2>/dev/null || echo 0)
    total=$((total + ${value:-0}))
  done
  echo "$total"
}
