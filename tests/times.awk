# From the output of `cargo test`, each test binary with its time, the longest first, and their sum.
$1 == "Running" { name = $NF; gsub(/^\(.*\/|-[0-9a-f]+\)$/, "", name) }
$1 == "Doc-tests" { name = "doc-tests of " $2 }
/^test result: / && match($0, /finished in [0-9.]+s/) {
    seconds = substr($0, RSTART + 12, RLENGTH - 13)
    verdict = $3 == "ok." ? "" : "  FAILED"
    sum += seconds
    rows = rows sprintf("%8.1f s  %s%s\n", seconds, name, verdict)
}
END {
    printf "\nTime of each test binary:\n"
    printf "%s", rows | "sort -rn"
    close("sort -rn")
    printf "%8.1f s  in all\n", sum
}
