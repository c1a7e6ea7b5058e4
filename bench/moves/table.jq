# Rows as text, for a person.
def pad(n): tostring | if length < n then " " * (n - length) + . else . end;
def tenths: if type == "number" then (. * 10 | round / 10 | tostring) else . end;
def hundredths: . * 100 | round / 100 | tostring;
def line(cells): cells[0] + " " * (8 - (cells[0] | length)) + (cells[1:] | map(pad(14)) | join(""));

line(["part", "p99 us", "before", "ratio", "faults p99", "ratio", "longest ms", "seconds", "MiB", "MiB/s"]),
(.[] | line([.part, (.p99_us | tenths), (.normal_p99_us | tenths), (.ratio | hundredths), (.fault_p99_us | tenths), (.fault_ratio | hundredths),
             (.longest_ms | tenths), (.seconds | tenths), (.moved_bytes / 1048576 | round), (.mib_per_second | tenths)])),
(.[] | select(.times) | "a resize: \(.shrink_seconds | tenths) s until the half was given back, \(.grow_seconds | tenths) s until the whole was used again (mean of \(.times))"),
"no mismatch; wanted: ratios of at most 2"
