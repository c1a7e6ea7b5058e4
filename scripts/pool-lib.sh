# A shared pool on this machine: a controller on SQLite, memory servers in failure domains of their own, agents as if of
# several hosts. Sourced by scripts/demo-pool and bench/moves/moves after scripts/lib.sh and scripts/demo-lib.sh.
# shellcheck shell=bash disable=SC2154  # work and bin belong to those

controller_socket=$work/controller.sock

pool() { "$bin/tidectl" --controller "unix:$controller_socket" pool "$@"; }
agent() { "$bin/tidectl" --socket "$work/$1.sock" "${@:2}"; }

# configure_controller SLICE: short times, so that what is to be shown is there within seconds.
configure_controller() {
  cat >"$work/controller.toml" <<TOML
schema = 1
name = "pool"
[api]
socket = "$controller_socket"
audit_log = "$work/controller-audit.jsonl"
[state]
file = "$work/state.db"
[slices]
size = "$1"
[servers]
heartbeat = "500ms"
suspect_after = "2s"
lost_after = "5s"
[hosts]
sync = "500ms"
[leases]
time = "20s"
[shares]
buffer = "0%"
TOML
}
start_controller() {
  start controller "$bin/tidepool-controller" --config "$work/controller.toml"
  wait_until 30 pool status >/dev/null 2>&1 || die "the controller does not answer: $(tail -n 5 "$work/controller.log")"
}

# configure_server NAME CAPACITY
configure_server() {
  cat >"$work/$1.toml" <<TOML
schema = 1
name = "$1"
failure_domain = "$1"
listen = ["unix:$work/$1.sock"]
[memory]
capacity = "$2"
[controller]
endpoints = ["unix:$controller_socket"]
TOML
}
start_server() {
  start "$1" "$bin/tidepool-memd" --config "$work/$1.toml"
  wait_until 30 has_lines "$work/$1.log" 'msg=ready' 1 || die "$1 did not start: $(tail -n 5 "$work/$1.log")"
}
servers_are() { [ "$(pool node list -o json | jq --arg state "$1" '[.items[] | select(.state == $state)] | length')" -eq "$2" ]; }
all_up() { servers_are up "$1"; }

# configure_agent HOST SLICE CAPACITY METRICS: most that each VM can have of the pool; where Prometheus reads, or nothing.
# A VM's limit is what is tested: nothing else holds its memory up. What goes for [pool.servers] may be appended.
configure_agent() {
  cat >"$work/$1.toml" <<TOML
schema = 1
mode = "active"
[api]
socket = "$work/$1.sock"
metrics = "$4"
audit_log = "$work/$1-audit.jsonl"
[keeper]
holder = "keeper"
socket = "$work/$1-keeper.sock"
program = "$bin/tidepool-keeper"
[safety]
max_far = "50%"
[adopt]
allow_exe = ["$bin/tidepool-load"]
helper = "$bin/tidepool-adopt"
[defaults]
guarantee = "0%"
stall_budget = "100%"
min_cold_age = "5s"
[policy]
tick = "500ms"
need_archive = ""
[pool.controller]
endpoints = ["unix:$controller_socket"]
host = "$1"
[pool.servers]
slice = "$2"
capacity = "$3"
TOML
}
start_agent() {
  start "$1" "$bin/tidepoold" --config "$work/$1.toml"
  wait_until 30 agent "$1" status >/dev/null 2>&1 || die "the agent of $1 does not answer: $(tail -n 5 "$work/$1.log")"
}

# start_vm NAME MIB [OPTION...]: a VM's worth of memory under zipf, every byte checked; filled when this returns.
start_vm() {
  local name=$1 mib=$2
  start "$name" "$bin/tidepool-load" --memory private --size "${mib}MiB" --pattern zipf --duration 0 -o json "${@:3}"
  wait_until 300 says_or_ended "$name" "$work/$name.log" '^ready' && has_lines "$work/$name.log" '^ready' 1 ||
    die "$name did not fill its memory: $(cat "$work/$name.log")"
}
# adopt_vm HOST NAME BYTES: what of it may stay local.
adopt_vm() {
  agent "$1" vm adopt --pid "${pid_of[$2]}" --name "$2" --mode active
  agent "$1" vm set "$2" --limit "$(($3 / 4096 * 4096))" >/dev/null
}
far_of() { agent "$1" vm list -o json | jq "[.items[] | .memory.far_bytes] | add"; }

# end_vm HOST NAME: brings everything home, checks every byte and sets `mismatches` to how many are wrong.
end_vm() {
  agent "$1" vm release "$2"
  kill -TERM "${pid_of[$2]}"
  wait "${pid_of[$2]}" || true
  mismatches=$(grep '"final"' "$work/$2.log" | jq -r .mismatches)
  [ -n "$mismatches" ] || die "$2 did not report: $work/$2.log"
}
pool_is_empty() { [ "$(pool status -o json | jq '.held_slices + .releasing_slices')" -eq 0 ]; }
under_replicated() { pool status -o json | jq .under_replicated_slices; }

# end_pool_programs HOST/VM... -- SERVER...: whatever of it is still there; for a trap.
end_pool_programs() {
  local vms=() each keeper
  while [ "$1" != -- ]; do vms+=("$1") && shift; done
  shift
  for each in "${vms[@]}"; do
    alive "${each%/*}" && timeout 120 "$bin/tidectl" --socket "$work/${each%/*}.sock" vm release "${each#*/}" >/dev/null 2>&1
  done
  for each in "${vms[@]}"; do stop "${each#*/}" 30; done
  for each in "${vms[@]}"; do stop "${each%/*}" 30; done
  # With nothing lent they end at once; should something be, a second word makes them.
  for each in "$@" controller; do stop "$each" 10; done
  for keeper in $(keeper_pids); do kill -TERM "$keeper"; done
}
