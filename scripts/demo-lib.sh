# The demo's tools: processes of its own, numbers from them, the live table. Sourced by scripts/demo, scripts/demo-pool and the
# experiments in bench/ after scripts/lib.sh.
# shellcheck shell=bash disable=SC2154,SC2034  # work, bin, agent_socket and what is read of these functions belong to those

declare -A pid_of=()

# start NAME COMMAND...: in the background, output into $work/NAME.log, in a session of its own so that Ctrl-C reaches the
# demo alone and everything ends in order.
start() {
  local name=$1
  shift
  # Here, not in the child: nobody reads what an earlier process of this name said.
  : >"$work/$name.log"
  setsid "$@" >>"$work/$name.log" 2>&1 </dev/null &
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

# kill_hard NAME: without a word of the shell's about it.
kill_hard() {
  kill -KILL "${pid_of[$1]}"
  wait "${pid_of[$1]}" 2>/dev/null || true
}

# wait_until SECONDS COMMAND...: until the command succeeds; fails when it never does. Looks every $wait_pause seconds (0.2).
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep "${wait_pause:-0.2}"
  done
}

# The keepers of this run: they outlive their agent by design, and are recognised by the run's own folder.
keeper_pids() {
  local directory
  for directory in /proc/[0-9]*; do
    [ "$(cat "$directory/comm" 2>/dev/null)" = tidepool-keeper ] || continue
    tr '\0' '\n' <"$directory/cmdline" 2>/dev/null | grep -qF "$work" && basename "$directory"
  done
}

# has_lines FILE PATTERN COUNT: at least COUNT lines match.
has_lines() { [ "$(grep -cE "$2" "$1" 2>/dev/null || true)" -ge "$3" ]; }

# says_or_ended NAME FILE PATTERN: done when a line matches, and also when the process has ended and never will write one.
says_or_ended() { has_lines "$2" "$3" 1 || ! alive "$1"; }

tidectl() { "$bin/tidectl" --socket "$agent_socket" "$@"; }

gib() { awk -v bytes="$1" 'BEGIN {printf "%.2f", bytes / 1073741824}'; }
# ratio A B: A / B in percent, "-" when B is nothing.
percent() { awk -v a="$1" -v b="$2" 'BEGIN {if (b > 0) printf "%.0f%%", 100 * a / b; else printf "-"}'; }

# All adopted VMs as a JSON array, whatever the envelope.
vms_json() { tidectl vm list -o json | jq -c 'if type == "array" then . else (.items // .vms) end'; }
# vm_number NAME FILTER: one number of one VM.
vm_number() { vms_json | jq -r --arg name "$1" ".[] | select(.name == \$name) | $2"; }

# One figure from a client's last interim report.
client_figure() { grep '"interim"' "$work/$1.log" | tail -n 1 | jq -r "$2"; }
ask_client() {
  local before
  before=$(grep -c '"interim"' "$work/$1.log" || true)
  kill -USR1 "${pid_of[$1]}" 2>/dev/null || return 0
  wait_until 30 has_lines "$work/$1.log" '"interim"' $((before + 1)) || die "the cache client does not answer"
}

# ---- results, and the agent's metrics at $metrics_port -------------------------------------------------------------------
# row KEY VALUE...: one result; numbers stay numbers.
row() { jq -cn '[$ARGS.positional | _nwise(2) | {(.[0]): (.[1] | tonumber? // .)}] | add' --args "$@" >>"$work/rows"; }
calc() { bc -l <<<"$*"; }

free_port() {
  local port
  for port in $(shuf -i 20000-30000 -n 20); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return 0; }
  done
  die "no free port"
}
metric() { curl -sf "http://127.0.0.1:$metrics_port/metrics" | grep -F "$1" | awk '{print $NF; found = 1} END {if (!found) print 0}'; }
# fault_at QUANTILE BEFORE AFTER: of the faults on far pages between two snapshots of the histogram, in microseconds, 0 without
# any; inside a bucket, as far between its bounds as the rank between their counts (as PromQL's histogram_quantile has it).
fault_at() {
  jq -rn --argjson q "$1" --argjson before "$2" --argjson after "$3" '
    [$after | to_entries[] | {le: (if .key == "+Inf" then infinite else (.key | tonumber) end), count: (.value - ($before[.key] // 0))}] |
    sort_by(.le) | if length == 0 or last.count == 0 then 0 else
    (last.count * $q) as $rank | [{le: 0, count: 0}] + . |
    first(range(1; length) as $i | select(.[$i].count >= $rank) | [.[$i - 1], .[$i]]) as [$low, $high] |
    if $high.le | isinfinite then "beyond"
    elif $high.count == $low.count then $high.le * 1e6
    else ($low.le + ($high.le - $low.le) * ($rank - $low.count) / ($high.count - $low.count)) * 1e6 end end'
}
fault_histogram() {
  curl -sf "http://127.0.0.1:$metrics_port/metrics" | grep '^tidepool_fault_duration_seconds_bucket' |
    sed -E 's/.*le="([^"]+)".* ([0-9.e+]+)$/\1 \2/' |
    jq -cRn '[inputs | split(" ") | {key: .[0], value: (.[1] | tonumber)}] | group_by(.key) | map({key: .[0].key, value: (map(.value) | add)}) | from_entries'
}

# start_cache NAME CLIENT [GROUP]: a memcached on tmpfs and a client that loads it, filled; in a control group when one is given.
start_cache() {
  local name=$1 client=$2 group=${3:-} file
  file=/dev/shm/$(basename "$work").$1
  rm -f "$work/run/$name.sock"  # an earlier one's would look as if this one were there
  # shellcheck disable=SC2016  # the inner shell expands it
  start "$name" sh -c '[ -z "$1" ] || echo $$ >"$1/cgroup.procs"; shift; exec "$@"' join "$group" \
    setpriv --reuid nobody --regid nogroup --clear-groups -- \
    memcached -m "$size" -p 0 -s "$work/run/$name.sock" -a 0777 -e "$file" -t 2 -I 1m
  wait_until 10 test -S "$work/run/$name.sock" || die "memcached did not start: $(cat "$work/$name.log")"
  # Values of 4 KiB take 4.5 KiB of memcached's slabs; three quarters full, so that it never has a reason to evict.
  start "$client" "$bin/tidepool-cache-load" --memcached "$work/run/$name.sock" --keys $((size * 1024 * 3 / 4 / 5)) --threads 2 \
    --rate "$rate" --duration 0 -o json
}

# ---- the kernel's own way: a memory control group at its limit, with zram behind it -------------------------------------
# Only ever our own device and our own group; both go in remove_zram and remove_group.
zram="" group=""

# add_zram BYTES: a compressed swap device with LZ4. Fails, and says why in $no_zram, where the host cannot.
add_zram() {
  no_zram=""
  [ -e /sys/class/zram-control/hot_add ] || modprobe zram 2>/dev/null || true
  [ -r /sys/class/zram-control/hot_add ] || { no_zram="no zram in this kernel" && return 1; }
  zram=$(cat /sys/class/zram-control/hot_add) || { no_zram="no zram device to be had" && return 1; }
  echo lz4 >"/sys/block/zram$zram/comp_algorithm" 2>/dev/null || true
  echo "$1" >"/sys/block/zram$zram/disksize"
  [ -b "/dev/zram$zram" ] || mknod "/dev/zram$zram" b "$(cut -d: -f1 "/sys/block/zram$zram/dev")" "$(cut -d: -f2 "/sys/block/zram$zram/dev")"
  if ! mkswap "/dev/zram$zram" >/dev/null 2>&1 || ! swapon -p 100 "/dev/zram$zram" 2>/dev/null; then
    no_zram="swapon is not permitted"
    remove_zram
    return 1
  fi
}
# switch_off FILE: tries until it is no longer swap. The kernel refuses while somebody's full control group has memory there,
# and an interrupted swapoff leaves it on: it then stays known, for the clean-up.
switch_off() { wait_until 30 is_switched_off "$1" || { say "$1 cannot be switched off" && return 1; }; }
is_switched_off() {
  ! grep -q "^$1 " /proc/swaps || swapoff "$1" 2>/dev/null || true
  ! grep -q "^$1 " /proc/swaps
}
remove_zram() {
  [ -n "$zram" ] || return 0
  switch_off "/dev/zram$zram" || return 1
  echo "$zram" >/sys/class/zram-control/hot_remove 2>/dev/null || true
  zram=""
}
# Bytes of DRAM that the device takes.
zram_bytes() { awk '{print $3}' "/sys/block/zram$zram/mm_stat"; }

# add_group: a memory control group, version 2 or 1, or the reason in $no_group.
add_group() {
  no_group=""
  if grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
    group=/sys/fs/cgroup/$(basename "$work") group_limit=memory.max group_usage=memory.current
  elif [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
    group=/sys/fs/cgroup/memory/$(basename "$work") group_limit=memory.limit_in_bytes group_usage=memory.usage_in_bytes
  else
    no_group="no memory control group" && return 1
  fi
  mkdir "$group" 2>/dev/null || { no_group="$group cannot be made" group="" && return 1; }
}
remove_group() {
  [ -n "$group" ] || return 0
  wait_until 10 rmdir "$group" 2>/dev/null || say "note: $group is still in use"
  group=""
}
# limit_group BYTES: in steps, because the first version of control groups gives up on large ones.
limit_group() {
  local wanted=$1 now deadline=$((SECONDS + 60))
  until echo "$wanted" >"$group/$group_limit" 2>/dev/null; do
    now=$(cat "$group/$group_usage")
    echo $((now - (now - wanted) / 4)) >"$group/$group_limit" 2>/dev/null || true
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
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
    def g: . / 1073741824;
    .[] | [$t, .name, (.memory.promised_bytes | g),
           ((.memory.promised_bytes - .memory.untouched_bytes - .memory.released_bytes) | g),
           (.memory.in_dram_bytes | g), (.memory.far_bytes | g), (.faults_per_second | round),
           (.fault_p50_ns / 1000 | round), (.fault_p99_ns / 1000 | round), "\(.stall * 1000 | round / 10)%"] | @tsv' |
    while IFS=$'\t' read -r t name promised touched resident far faults p50 p99 stall; do
      printf '%6s  %-8s %8.2f %8.2f %8.2f %8.2f %8s %9s %9s %7s\n' \
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
