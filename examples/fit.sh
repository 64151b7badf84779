#!/usr/bin/env bash
# Observe, fit, replay, compare: make the simulator's constants those of a server from a log of its requests.
#
#   examples/fit.sh                                 on a recording of vLLM that comes along
#   examples/fit.sh LOG [OPTION VALUE]... [-- MAP]...   on yours: the simulator's options, with how the server was
#                                                   started, then what gen --map takes
#
# For instance: examples/fit.sh log.csv --gpu a10g --served-model qwen2.5-7b -- arrival_s=t prompt_tokens=in \
#   actual_output_tokens=out first_token_s=first finished_s=end
# The recording is of a small Llama in vLLM 0.32 on two CPU cores: 300 requests at once, 73 preemptions. cpu.toml
# says where its fit starts from.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
log=$here/vllm_cpu_burst.jsonl.gz
limits=(--num-gpu-blocks 100 --block-size 32)
start=(--profile "$here/cpu.toml")
map=(arrival_s=sent_s prompt_tokens actual_output_tokens=output_tokens first_token_s finished_s=last_token_s)
format=jsonl
if [ $# -gt 0 ]; then
  log=$1
  shift
  case $log in *.csv | *.csv.gz) format=csv ;; esac
  limits=() start=() map=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in # where the fit starts from; all else holds after it too
      --gpu=* | --served-model=* | --profile=*) start+=("$1") ;;
      --gpu | --served-model | --profile) start+=("$1" "$2") && shift ;;
      *) limits+=("$1") ;;
    esac
    shift
  done
  [ $# -gt 0 ] && shift
  map=("$@")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# observe: the log as completions
maps=()
for field in "${map[@]}"; do
  case $field in *=*) maps+=(--map "$field") ;; *) maps+=(--map "$field=$field") ;; esac
done
driftkit gen --trace "$log" --trace-format "$format" "${maps[@]}" >"$work/measured.jsonl"

# fit: half of it; the errors, of the other half too, go to standard error
driftkit calibrate --fit engine "${start[@]}" "${limits[@]}" "$work/measured.jsonl" >"$work/fitted.toml"

# replay: the same requests on the fitted simulator, and on the one that we started from
# (the lengths that were produced are the lengths to produce)
replay() { sed 's/"actual_output_tokens"/"trace_output_tokens"/; s/"kind":"completion"/"kind":"request"/' \
  "$work/measured.jsonl" | driftkit run --label "$1" "${@:2}" "${limits[@]}"; }
replay started "${start[@]}" >"$work/started.jsonl"
replay fitted --profile "$work/fitted.toml" >"$work/fitted.jsonl"

# compare: request by request
sed 's/"label":"[^"]*"/"label":"measured"/' "$work/measured.jsonl" >"$work/real.jsonl"
driftkit report --table latency --table paired --baseline measured "$work/real.jsonl" "$work/started.jsonl" "$work/fitted.jsonl"
