#!/usr/bin/env bash
# Three tenants of one company (tenants.toml) through the pipe on a simulated L4 with twelve slots: who waits how
# long when first come is first served, when tiers go first, and when short jobs do.
#
#   examples/tenants.sh [FILE]      another spec, if you have one
#
# Estimates are as long as the prompts; `oracle-sjf` shows what knowing the output would be worth.
set -euo pipefail
spec=${1:-$(dirname "$0")/tenants.toml}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

driftkit gen --spec "$spec" | driftkit estimate --model prompt-length >"$work/requests.jsonl"
for policy in fifo priority sjf oracle-sjf; do
  driftkit schedule --policy "$policy" --no-plan "$work/requests.jsonl" |
    driftkit run --gpu l4 --served-model qwen1.5-1.8b --max-num-seqs 12 >"$work/$policy.jsonl"
done
cd "$work"
driftkit report --by tier --baseline fifo fifo.jsonl priority.jsonl sjf.jsonl oracle-sjf.jsonl
