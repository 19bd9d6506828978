#!/bin/sh
# Runs a compiler (from the third argument on) and keeps what ptxas says of the kernels beside the object.
#   keep_ptxas_report.sh LANGUAGE OBJECT COMMAND...
language=$1 object=$2
shift 2
[ "$language" = CUDA ] || exec "$@"
log=$object.log
"$@" >"$log" 2>&1
status=$?
mkdir -p "$(dirname "$object")"
grep -E '^ptxas info|bytes stack frame' "$log" >"$object.ptxas"
grep -vE '^ptxas info|bytes stack frame' "$log" >&2
rm -f "$log"
exit $status
