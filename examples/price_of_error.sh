#!/usr/bin/env bash
# The price of error: the same requests, shortest job first by five estimates of how long their answers will be.
#
#   examples/price_of_error.sh                      on the three tenants of tenants.toml, SEEDS=3 times REQUESTS=600
#   examples/price_of_error.sh TAUGHT SERVED... [-- OPTION...]
#                                                   on completions of yours: the regressor learns from the file
#                                                   TAUGHT, then each SERVED is sent to the simulator again
#
# Completions are what `driftkit run` writes, or `driftkit gen --trace LOG --map ...` makes of a log that has the
# prompts' tokens (`driftkit estimate` counts them); with the prompts' text, lengths are predicted best. OPTIONs are those of `run`: --gpu, --served-model, --max-num-seqs. No request
# may be in both, or the regressor has seen the answer. One SERVED has an interval over its requests, which is too
# narrow; several, say a day each, have one over days.
#
# oracle knows every length; predicted is the regressor, which calibrated corrects while the run goes on;
# prompt-length takes the prompt's, table is the paper's. What is to be gained lies between prompt-length and oracle.
set -euo pipefail
spec=$(dirname "$0")/tenants.toml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

served=() simulator=(--gpu l4 --served-model qwen1.5-1.8b --max-num-seqs 12)
if [ $# -gt 0 ]; then
  taught=$1
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    served+=("$1")
    shift
  done
  if [ ${#served[@]} -eq 0 ]; then
    echo "usage: examples/price_of_error.sh [TAUGHT SERVED... [-- OPTION...]]" >&2
    exit 2
  fi
  [ $# -gt 0 ] && shift && simulator=("$@")
else
  taught=$work/taught.jsonl
  driftkit gen --spec "$spec" --seed 0 --requests "${REQUESTS:-600}" | driftkit run "${simulator[@]}" >"$taught"
  for seed in $(seq "${SEEDS:-3}"); do
    driftkit gen --spec "$spec" --seed "$seed" --requests "${REQUESTS:-600}" >"$work/generated-$seed.jsonl"
    served+=("$work/generated-$seed.jsonl")
  done
fi

driftkit calibrate --fit regressor --state "$work/lengths" "$taught"

# sjf LABEL OPTION...: one more run of the requests, by the estimate that stands in estimated.jsonl
sjf() {
  driftkit schedule --policy sjf --no-plan "$work/estimated.jsonl" |
    driftkit run --label "$1" "${simulator[@]}" "${@:2}" >>"$work/$1.jsonl"
}
for file in "${served[@]}"; do
  driftkit gen --trace "$file" --trace-format jsonl --as requests >"$work/requests.jsonl"
  for model in oracle prompt-length table; do
    driftkit estimate --model "$model" "$work/requests.jsonl" >"$work/estimated.jsonl"
    sjf "$model"
  done
  driftkit estimate --model regressor --state "$work/lengths" "$work/requests.jsonl" >"$work/estimated.jsonl"
  sjf predicted
  sjf calibrated --feedback --method quantile
done

cd "$work"
driftkit report --table error --table paired --baseline prompt-length \
  oracle.jsonl predicted.jsonl calibrated.jsonl table.jsonl prompt-length.jsonl
