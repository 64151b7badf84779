#!/usr/bin/env bash
# The paper's workload through the whole pipe on the built-in L4 simulator: FIFO against SJF, in gang batches.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "DriftSched's 3,000 requests on a simulated L4 in gangs of 32, first come first served and shortest job"
echo "first. The commands are in examples/demo.sh; the tables are those of the 2,000 of the stress phase."
echo
driftkit gen --preset driftsched | driftkit estimate >"$work/requests.jsonl"
for policy in fifo sjf; do
  driftkit schedule --policy "$policy" --batching static "$work/requests.jsonl" |
    driftkit run --engine sim --gpu l4 --served-model qwen1.5-1.8b --batching static |
    driftkit calibrate >"$work/$policy.jsonl"
done
driftkit report --where phase=stress --baseline fifo "$work/fifo.jsonl" "$work/sjf.jsonl"
