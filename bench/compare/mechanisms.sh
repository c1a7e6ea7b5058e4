# The mechanisms that make room: each has begin_NAME, set_limit_NAME and dram_of_NAME; what they have in common stands below.
# Sourced by compare.
# shellcheck shell=bash disable=SC2154,SC2034  # options belong to compare; left_out is read there

mechanism="" swap_file="" adopted=()

# ---- the kernel's own reclaim: a memory control group at its limit -------------------------------------------------------
begin_zram() { add_zram $((size * 1048576 * 2)) || { left_out=$no_zram && return 1; }; }
take_over_zram() { :; }
set_limit_zram() { limit_group "$1" || say "  the group's limit is not reached"; }
dram_of_zram() { zram_bytes; }

begin_swapfile() {
  swap_file=$swap_folder/$(basename "$work").swap
  fallocate -l "${size}M" "$swap_file" && chmod 600 "$swap_file" && mkswap "$swap_file" >/dev/null ||
    { left_out="no swap file of $size MiB in $swap_folder" && return 1; }
  swapon "$swap_file" 2>"$work/swapon.log" || { left_out="$(cat "$work/swapon.log")" && return 1; }
}
take_over_swapfile() { :; }
set_limit_swapfile() { set_limit_zram "$1"; }
dram_of_swapfile() { echo 0; }
remove_swap_file() {
  [ -n "$swap_file" ] || return 0
  switch_off "$swap_file" || return 1
  rm -f "$swap_file"
  swap_file=""
}

# ---- Tidepool: its embedded pool, or the kernel's swap in its hands --------------------------------------------------------
begin_pool() {
  metrics_port=$(free_port)
  cat >"$work/agent.toml" <<TOML
schema = 1
mode = "active"
[api]
socket = "$agent_socket"
metrics = "127.0.0.1:$metrics_port"
audit_log = "$work/audit.jsonl"
[keeper]
holder = "keeper"
socket = "$work/keeper.sock"
program = "$bin/tidepool-keeper"
[safety]
max_far = "$((size * 2))MiB"
[adopt]
allow_exe = ["/*"]
helper = "$bin/tidepool-adopt"
[defaults]
# A limit is what is tested here: nothing else holds it up.
guarantee = "0%"
stall_budget = "100%"
$(pool_section)
TOML
  "$bin/tidepoold" --config "$work/agent.toml" --check-config >"$work/check.log" 2>&1 || die "the agent refuses its configuration: $(cat "$work/check.log")"
  start agent "$bin/tidepoold" --config "$work/agent.toml"
  wait_until 30 tidectl status >/dev/null 2>&1 || die "the agent does not answer: $(tail -n 5 "$work/agent.log")"
}
pool_section() {
  if [ "${#servers[@]}" -ne 0 ]; then
    servers_section
  else
    printf '[pool.embedded]\nstore = "%s"\ncapacity = "%sMiB"\n[pool.kernel]\nswap = "auto"\n' "$store" "$size"
  fi
}
take_over_pool() { adopt_loads pager; }
adopt_loads() {
  local name
  for name in "${targets[@]}"; do
    tidectl vm adopt --pid "${pid_of[$name]}" --name "$name" --mechanism "$1" >"$work/adopt.log" 2>&1 || die "$name was not adopted: $(cat "$work/adopt.log")"
    adopted+=("$name")
    tidectl vm set "$name" --class "$(class_of "$name")" --stall-budget 100% --min-cold-age 2m >/dev/null
  done
  [ -z "$group" ] || beside_adopted=$(($(loads_dram) - $(vms_json | jq '[.[].memory.in_dram_bytes] | add')))
}
beside_adopted=0
# One process: its limit. Several: the host is as short of memory as if it had no more than this for them, and policy
# shares it out.
set_limit_pool() {
  local others available
  if [ "${#targets[@]}" -eq 1 ]; then
    # What the group is charged for beside the adopted memory is not the agent's to move.
    tidectl vm set "${targets[0]}" --limit "$((${1%.*} - beside_adopted > 0 ? ${1%.*} - beside_adopted : 4096))" >/dev/null
    return
  fi
  available=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) * 1024))
  others=$((available + $(loads_dram) + $(dram_of_pool) - $1))
  sed -i '/^host_reserve/d' "$work/agent.toml"
  sed -i "s/^\[safety\]\$/&\nhost_reserve = \"$((others / 1024))KiB\"/" "$work/agent.toml"
  kill -HUP "${pid_of[agent]}"
}
dram_of_pool() { tidectl status -o json | jq .host.overhead.total_bytes; }

# Which pages go is Tidepool's choice, where they go and how they return is the kernel's. What they take is among the
# agent's overhead.
begin_kernel() { begin_zram && begin_pool; }
take_over_kernel() { adopt_loads kernel; }
set_limit_kernel() { set_limit_pool "$1"; }
dram_of_kernel() { dram_of_pool; }

# Pages go to the pool or to the kernel's swap, as policy weighs the two. What both take is among the agent's overhead.
begin_both() { begin_zram && begin_pool; }
take_over_both() { adopt_loads pager; }
set_limit_both() { set_limit_pool "$1"; }
dram_of_both() { dram_of_pool; }

end_pool() {
  local name keeper
  if alive agent; then
    for name in "${adopted[@]}"; do timeout 120 "$bin/tidectl" --socket "$agent_socket" vm release "$name" >/dev/null 2>&1; done
  fi
  adopted=()
  # Should a release have failed, the memory ends with its process, never wrong.
  stop_loads
  stop agent 30
  for keeper in $(keeper_pids); do
    kill -TERM "$keeper"
    wait_until 10 gone "$keeper"
  done
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# vm_counters NAME: faults for far pages, faults for write protection, and seconds waited, since adoption.
vm_counters() {
  jq -cn --argjson far "$(metric "tidepool_vm_faults_total{vm=\"$1\",kind=\"far\"}")" \
    --argjson protected "$(metric "tidepool_vm_faults_total{vm=\"$1\",kind=\"write\"}")" \
    --argjson stall "$(metric "tidepool_vm_fault_stall_seconds_total{vm=\"$1\"}")" '{$far, $protected, $stall}'
}

# ---- all of them ---------------------------------------------------------------------------------------------------------
# begin_mechanism NAME: a control group for the loads, and what the mechanism needs; the reason in left_out where the host
# cannot.
begin_mechanism() {
  mechanism=$1 left_out=""
  if [ "$what" != zipf ] && [ "$what" != servers ]; then add_group || { left_out=$no_group && return 1; }; fi
  # Where the group is at its limit and the kernel is slow to make room, a load waits and is not killed (version 1).
  [ ! -e "$group/memory.oom_control" ] || echo 1 >"$group/memory.oom_control"
  "begin_$1" || { end_mechanism && return 1; }
}
# The loads have been measured with all their memory local; now the mechanism may have them.
take_over() { "take_over_$mechanism"; }
by_tidepool() { [[ " pool kernel both servers " == *" $mechanism "* ]]; }
set_limit() { local_limit=$1 && "set_limit_$mechanism" "$1"; }

# What the kernel charges the loads for, and with what the mechanism takes.
loads_dram() { cat "$group/$group_usage"; }
all_dram() { echo $(($(loads_dram) + $("dram_of_$mechanism"))); }

# Moves the limit by what is missing to the budget, or over it: in small steps, since what goes out takes its time. Where
# the loads do not come down to their limit, more than the budget is taken, and shown.
steer_once() {
  sample_dram
  [ "${#targets[@]}" -eq 1 ] || ! by_tidepool || { set_limit "$budget" && return 0; }
  set_limit "$(least_of "$budget" $((local_limit + (budget - taken) / 8)))"
}
least_of() { echo $(($1 < $2 ? $1 : $2)); }
steer() {
  local end=$((SECONDS + $1))
  while [ "$SECONDS" -lt "$end" ]; do
    sleep 1
    steer_once
  done
  say "  $(gib "$taken") of $(gib "$budget") GiB taken"
}
sample_dram() {
  taken=$(all_dram)
  dram_sum=$((${dram_sum:-0} + taken)) dram_count=$((${dram_count:-0} + 1))
}
sample_in_dram() {
  dram_sum=$((dram_sum + $(vm_number load0 .memory.in_dram_bytes))) dram_count=$((dram_count + 1))
}

let_settle() {
  say "  settling for $1 s"
  sleep "$1"
}

# Takes everything away that was set up, whatever of it there is.
end_mechanism() {
  [ -z "$group" ] || limit_group $((1 << 50)) || true
  end_pool
  end_servers
  remove_zram
  remove_swap_file
  remove_group
  mechanism=""
}
