# A pool at two memory servers on this machine: what it costs, what prefetch does for a scan, and how long an access waits
# when a server is killed. Sourced by compare.
# shellcheck shell=bash disable=SC2154,SC2034  # options and figures belong to compare

# Of the servers, as start() knows them.
servers=()

# start_server NAME TRANSPORT: a tidepool-memd of this run; its address in server_address[NAME].
declare -A server_address=()
start_server() {
  local name=$1 listen
  if [ "$2" = tcp ]; then listen=127.0.0.1:$(free_port); else listen=$work/$name.sock; fi
  server_address[$name]=$2:$listen
  (umask 077 && head -c 32 /dev/urandom >"$work/$name.key")
  cat >"$work/$name.toml" <<TOML
schema = 1
name = "$name"
failure_domain = "$name"
listen = ["${server_address[$name]}"]
key_file = "$work/$name.key"
[memory]
capacity = "$((size * 2))MiB"
TOML
  start "$name" "$bin/tidepool-memd" --config "$work/$name.toml"
  wait_until 10 has_lines "$work/$name.log" 'msg=ready' 1 || die "$name did not start: $(cat "$work/$name.log")"
  servers+=("$name")
}

begin_servers() {
  start_server left "$transport"
  start_server right "$transport"
  begin_pool
}
take_over_servers() { take_over_pool; }
set_limit_servers() { set_limit_pool "$1"; }
servers_section() {
  local name
  printf '[pool.servers]\ncapacity = "%sMiB"\nreplicas = 2\ncodec = "lz4"\n' $((size * 2))
  for name in "${servers[@]}"; do
    printf '[[memory_server]]\nname = "%s"\naddress = "%s"\nfailure_domain = "%s"\nkey_file = "%s"\n' "$name" \
      "${server_address[$name]}" "$name" "$work/$name.key"
  done
}
end_servers() {
  local name
  for name in "${servers[@]}"; do stop "$name" 10; done
  servers=()
}

promoted_pages() { echo $(($(metric "tidepool_vm_promoted_bytes_total{vm=\"load0\",cause=\"$1\"}" | jq -R 'tonumber | floor') / 4096)); }

run_servers() {
  for transport in unix tcp; do
    [[ ,$loads, != *,zipf,* ]] || run_served_zipf
    [[ ,$loads, != *,scan,* ]] || run_served_scan
  done
}

run_served_zipf() {
  local plain before after longest
  say "zipf(0.99) over $size MiB, limit $local_share%, two servers, $transport"
  begin_mechanism servers
  start_loads zipf
  measure "$measure_seconds"
  plain=$ops_per_second
  take_over
  set_limit $((size * 1048576 / 100 * local_share))
  let_settle "$settle"
  before=$(fault_histogram)
  measure "$measure_seconds"
  after=$(fault_histogram)
  row load zipf mechanism "$transport" ratio "$(calc "$ops_per_second / $plain")" ops_per_second "$ops_per_second" \
    local_ops_per_second "$plain" p99_us "$p99_us" fault_p50_us "$(fault_at 0.5 "$before" "$after")" \
    fault_p99_us "$(fault_at 0.99 "$before" "$after")"
  # One of the two dies under full load; five seconds of it without that beside it.
  ask_client load0
  sleep 5
  ask_client load0
  longest=$(client_figure load0 '.since_last.latency_ns.max / 1e6')
  kill_hard left
  sleep 5
  ask_client load0
  row load killed mechanism "$transport" longest_access_before_ms "$longest" ops_per_second "$(client_figure load0 '.since_last.operations_per_second | round')" \
    longest_access_ms "$(client_figure load0 '.since_last.latency_ns.max / 1e6')" mismatches "$(client_figure load0 .mismatches)"
  end_mechanism
}

# Of the pages that came home: how many were fetched ahead.
run_served_scan() {
  local ahead demand plain
  say "a scan over $size MiB, limit $local_share%, two servers, $transport"
  begin_mechanism servers
  start_load load0 "$size" sequential
  measure "$measure_seconds"
  plain=$ops_per_second
  take_over
  set_limit $((size * 1048576 / 100 * local_share))
  let_settle "$settle"
  ahead=$(promoted_pages prefetch) demand=$(promoted_pages demand)
  measure "$measure_seconds"
  ahead=$(($(promoted_pages prefetch) - ahead)) demand=$(($(promoted_pages demand) - demand))
  row load scan mechanism "$transport" ratio "$(calc "$ops_per_second / $plain")" ops_per_second "$ops_per_second" \
    local_ops_per_second "$plain" p99_us "$p99_us" pages_ahead "$ahead" pages_on_demand "$demand" \
    prefetch_share "$(calc "$ahead / ($ahead + $demand + 0.000001)")"
  end_mechanism
}
