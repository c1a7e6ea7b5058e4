# The loads, and what is asked of them. Sourced by compare.
# shellcheck shell=bash disable=SC2154,SC2034  # options, and what is read of these functions, belong to compare

# Of the running loads, as start() knows them: who answers figures, and whose memory is squeezed. For cache they differ.
clients=() targets=()

# start_loads NAME: fills their memory and lets them work until they are told to end.
start_loads() {
  local each=$((size / 4))
  case $1 in
    zipf) start_load load0 "$size" zipf --layout "$layout" ;;
    scan) start_load load0 "$size" scan --hot 0.25 ;;
    phase) start_load load0 "$size" phase-shift --hot 0.1 --phase "$phase" ;;
    diurnal) start_load load0 "$size" diurnal --phase $((phase * 3)) ;;
    vms)
      # One that matters and uses all of its memory, an ordinary one, a batch job that walks through its memory over and
      # over, and one that hardly works; classes in class_of. At these rates they leave the host processor time.
      start_load load0 "$each" uniform --rate 20000
      start_load load1 "$each" zipf --rate 40000
      start_load load2 "$each" sequential --rate 5000
      start_load load3 "$each" uniform --rate 20
      ;;
  esac
}
class_of() {
  case $1/${#targets[@]} in
    load0/4) echo latency-sensitive ;;
    load[23]/4) echo batch ;;
    *) echo standard ;;
  esac
}

# What policy weighs a class with.
weight_of() {
  case $(class_of "$1") in
    latency-sensitive) echo 4 ;;
    batch) echo 0.25 ;;
    *) echo 1 ;;
  esac
}

# start_load NAME MIB PATTERN [OPTION...]: in the mechanism's control group, where it has one.
start_load() {
  local name=$1 mib=$2 pattern=$3
  shift 3
  # shellcheck disable=SC2016  # the inner shell expands it
  start "$name" sh -c '[ -z "$1" ] || echo $$ >"$1/cgroup.procs"; shift; exec "$@"' join "$group" \
    "$bin/tidepool-load" --memory "$memory" --verify "$verify" --no-final-check --size "${mib}MiB" --pattern "$pattern" \
    --threads "$threads" --duration 0 -o json "$@"
  clients+=("$name") targets+=("$name")
  wait_until 300 says_or_ended "$name" "$work/$name.log" '^ready' && has_lines "$work/$name.log" '^ready' 1 ||
    die "$name did not fill its memory: $(cat "$work/$name.log")"
}

# measure SECONDS [EVERY_SECOND...]: lets the loads run; operations, ops_per_second (all loads together) and p99_us (of the
# first, the one that matters most) are those of that time, and so is mean_ns[NAME] of an operation.
declare -A mean_ns=()
measure() {
  local seconds=$1 end name
  shift
  for name in "${clients[@]}"; do ask_client "$name"; done
  end=$((SECONDS + seconds))
  while [ "$SECONDS" -lt "$end" ]; do
    sleep 1
    [ $# -eq 0 ] || "$@"
  done
  for name in "${clients[@]}"; do ask_client "$name"; done
  operations=0 ops_per_second=0
  for name in "${clients[@]}"; do
    operations=$((operations + $(client_figure "$name" .since_last.operations)))
    ops_per_second=$((ops_per_second + $(client_figure "$name" '.since_last.operations_per_second | round')))
    mean_ns[$name]=$(client_figure "$name" .since_last.latency_ns.mean)
    [ "$(client_figure "$name" .mismatches)" -eq 0 ] || die "$name found wrong bytes: $work/$name.log"
  done
  p99_us=$(client_figure "${clients[0]}" '.since_last.latency_ns.p99 / 1000')
  say "  $ops_per_second operations/s, p99 $(calc "scale=1; $p99_us / 1") us"
}

stop_loads() {
  local name
  for name in "${clients[@]}" "${targets[@]}"; do stop "$name" 30; done
  rm -f /dev/shm/"$(basename "$work")".*
  clients=() targets=()
}
