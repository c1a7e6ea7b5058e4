# Rows as text, for a person.
def pad(n): tostring | if length < n then " " * (n - length) + . else . end;
def percent: if . == null then "-" else "\(. * 1000 | round / 10)%" end;
def whole: if . == null then "-" else (round | tostring) end;
def tenths: if . == null then "-" else (. * 10 | round / 10 | tostring) end;
def mib: if . == null then "-" else (. / 1048576 | round | tostring) end;
def line(cells): cells as [$first, $second] | cells[2:] as $rest |
  $first + " " * (8 - ($first | length)) + $second + " " * (10 - ($second | length)) + ($rest | map(pad(12)) | join(""));

line(["load", "under", "ops/s", "of local", "p99 us", "local p99", "DRAM MiB"]),
(.[] | if .left_out then line([.load, .mechanism]) + "not measured: \(.left_out)"
       else line([.load, .mechanism, (.ops_per_second | whole), (.ratio | percent), (.p99_us | tenths), (.local_p99_us | tenths),
                  (.dram_bytes // .in_dram_bytes | mib)]) end),
(.[] | select(.fault_p50_us) | "", "faults from servers over \(.mechanism): p50 \(.fault_p50_us | tenths) us, p99 \(.fault_p99_us | tenths) us"),
(.[] | select(.longest_access_ms) | "the longest access in 5 s in which one of two servers over \(.mechanism) was killed: \(.longest_access_ms | tenths) ms (in 5 s before: \(.longest_access_before_ms | tenths)), \(.mismatches) mismatches (wanted: below 1000)"),
(.[] | select(.prefetch_share) | "a scan over \(.mechanism): \(.prefetch_share | percent) of the pages that came home were fetched ahead (wanted: at least 90%)"),
(.[] | select(.bound) |
  "",
  "T, an operation all local: \(.local_operation_ns | whole) ns   under the limit: \(.operation_ns | whole) ns",
  "m, misses of an oracle:    \(.oracle_miss_ratio * 10000 | round / 10000)     faults per access: \(.faults_per_access * 10000 | round / 10000), \(.faults_of_oracle * 100 | round / 100) x the oracle\u0027s (wanted: at most 1.3)",
  "F, the agent\u0027s own:       \(.fault_ns | whole) ns   as the load saw it: \(.fault_ns_as_seen | whole) ns",
  "T / (T + m F):             \(.bound | percent)    reached: \(.ratio | percent), \(.of_bound * 100 | round / 100) of it (wanted: at least 0.95)"),
(.[] | select(.seconds_until_back) |
  "",
  "seconds from a shift until 90% of steady throughput: \(.seconds_until_back | map(. // "never" | if type == "number" then (. * 10 | round / 10) else . end | tostring) | join(", ")) (wanted: at most 30)")
