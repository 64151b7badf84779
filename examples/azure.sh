#!/usr/bin/env bash
# A real trace through the whole pipe on the simulated L4: Azure's conversation trace of 2023.
#
#   examples/azure.sh AzureLLMInferenceTrace_conv.csv      (gzipped is fine)
#
# It has lengths and arrivals, no text and no tenants: tenants are drawn (see `driftkit gen --help`), and the
# paper's table, which reads prompts, falls back to 256 tokens for everybody. So `sjf` here orders by prompt
# length; `oracle-sjf` shows what knowing the output would be worth.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: examples/azure.sh FILE" >&2
  exit 2
fi
trace=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

driftkit gen --trace "$trace" --trace-format azure | driftkit estimate >"$work/requests.jsonl"
for policy in fifo priority sjf oracle-sjf; do
  driftkit schedule --policy "$policy" --no-plan "$work/requests.jsonl" |
    driftkit run --gpu l4 --served-model qwen1.5-1.8b |
    driftkit calibrate >"$work/$policy.jsonl"
done
cd "$work"
echo "Tenants are drawn at random, a third each: the trace has none. It has no text either, so sjf goes by the"
echo "prompt's length, and oracle-sjf shows what knowing the output's would be worth."
echo
driftkit report --baseline fifo fifo.jsonl priority.jsonl sjf.jsonl oracle-sjf.jsonl
