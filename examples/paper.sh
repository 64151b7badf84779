#!/usr/bin/env bash
# DriftSched's experiment (arXiv 2606.02982) on the simulated L4, claim by claim, over SEEDS workloads.
#
#   examples/paper.sh [FOLDER]      SEEDS=10 JOBS=2; what was run is kept in FOLDER, if it is given
#
# Every run has the paper's two phases, its serving options and, unless it says otherwise, its online
# calibration. Latencies are those of the stress phase; estimate errors are over all requests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seeds=${SEEDS:-10}
if [ $# -gt 0 ]; then work=$1; mkdir -p "$work"; else work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; fi

serve() {
  driftkit run --gpu l4 --served-model qwen1.5-1.8b --max-model-len 2048 --gpu-memory-utilization 0.70 "$@"
}

# A user's own stage in the pipe: outputs of WORDS times as many words per token.
words() {
  python3 -c 'import json, sys
for line in sys.stdin:
    record = json.loads(line)
    record["trace_output_words"] = max(1, round(record["trace_output_words"] * float(sys.argv[1])))
    print(json.dumps(record))' "$1"
}

# latency SEED SCALED LENGTH-SCALE STEP-TIME-SCALE POLICY...: one run per policy and kind of batching
latency() {
  local seed=$1 scaled=$2 length=$3 step=$4
  shift 4
  for policy in "$@"; do
    driftkit gen --preset driftsched --seed "$seed" --length-scale "$length" | driftkit estimate |
      driftkit schedule --policy "$policy" --no-plan >"$work/$scaled-$seed.scheduled"
    for batching in static continuous; do
      serve --batching "$batching" --step-time-scale "$step" --feedback --method ema \
        --label "$batching-$policy" "$work/$scaled-$seed.scheduled" >"$work/$scaled.$batching-$policy-$seed.jsonl"
    done
  done
  rm "$work/$scaled-$seed.scheduled"
}

# errors SEED SCALED LENGTH-SCALE WORDS-SCALE LENGTHS TOKENIZER METHOD
errors() {
  local seed=$1 scaled=$2 length=$3 words=$4 lengths=$5 tokenizer=$6 method=$7
  driftkit gen --preset driftsched --seed "$seed" --lengths "$lengths" --length-scale "$length" |
    words "$words" | driftkit estimate --tokenizer "$tokenizer" | driftkit schedule --policy fifo --no-plan |
    serve --batching static --label "$lengths-$tokenizer-$method" |
    driftkit calibrate --method "$method" >"$work/$scaled.error-$lengths-$tokenizer-$method-$seed.jsonl"
}

workload() {
  local seed=$1
  latency "$seed" base 1 1 fifo priority weighted sjf aging oracle-sjf
  driftkit gen --preset driftsched --seed "$seed" | driftkit estimate |
    driftkit schedule --policy sjf --no-plan |
    serve --batching static --label static-sjf-uncalibrated \
      >"$work/base.static-sjf-uncalibrated-$seed.jsonl"
  # continuous batching with no more slots than a gang has
  driftkit gen --preset driftsched --seed "$seed" | driftkit estimate |
    serve --batching continuous --max-num-seqs 32 --label continuous32-fifo \
      >"$work/base.continuous32-fifo-$seed.jsonl"
  for lengths in near-cap chat; do
    for tokenizer in whitespace builtin; do
      for method in ema ratio; do
        errors "$seed" base 1 1 $lengths $tokenizer $method
      done
    done
  done
  for scale in 0.8 1.2; do
    latency "$seed" "step-time-x$scale" 1 $scale fifo sjf
    latency "$seed" "lengths-x$scale" $scale 1 fifo sjf
    errors "$seed" "lengths-x$scale" $scale 1 near-cap whitespace ema
    errors "$seed" "words-x$scale" 1 $scale near-cap whitespace ema
  done
}

export work
export -f serve words latency errors workload
seq 0 $((seeds - 1)) | xargs -P "${JOBS:-2}" -I SEED bash -euo pipefail -c 'workload SEED'

for scaled in base step-time-x0.8 step-time-x1.2 lengths-x0.8 lengths-x1.2; do
  for batching in static continuous; do
    driftkit report --where phase=stress --baseline "$batching-fifo" --format jsonl \
      "$work/$scaled.$batching"-*.jsonl >"$work/$scaled-$batching.report"
  done
done
driftkit report --where phase=stress --baseline static-fifo --format jsonl \
  "$work"/base.*-fifo-*.jsonl >"$work/base-batching.report"
for scaled in base lengths-x0.8 lengths-x1.2 words-x0.8 words-x1.2; do
  driftkit report --by run_id --by category --format jsonl "$work/$scaled".error-*.jsonl >"$work/$scaled-error.report"
done
python3 "$here/paper_table.py" "$work"
