# bash completion for driftkit; bash 4 or newer
# Made by tools/make_docs.py from the commands; do not edit.

_driftkit_words() {
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_driftkit_paths() { # -f for files, -d for folders
    compopt -o filenames 2> /dev/null
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen "$1" -- "$cur")
}

_driftkit_knobs() {
    local i policy=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == --policy ]]; then
            policy=${COMP_WORDS[i+1]}
            [[ $policy == = ]] && policy=${COMP_WORDS[i+2]}
        fi
    done
    case $policy in
        aging) _driftkit_words 'rate=' ;;
        random) _driftkit_words 'seed=' ;;
    esac
    compopt -o nospace 2> /dev/null
}

# `--option=value` reaches us as three words; readline puts in only what follows the `=`.
_driftkit() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' i
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -*) ;;
            *)
                command=${COMP_WORDS[i]}
                break
                ;;
        esac
    done
    case $command:$prev in
        *:--preset | \
            *:--print-spec)
            _driftkit_words 'driftsched'
            return
            ;;
        *:--spec | \
            *:--trace | \
            *:--rejects | \
            *:--config | \
            *:--manifest | \
            *:--profile | \
            *:--steps | \
            *:-o | \
            *:--output | \
            *:--api-key-file | \
            *:--telemetry | \
            *:--alarms)
            _driftkit_paths -f
            return
            ;;
        *:--requests | \
            *:--length-scale | \
            *:--drift | \
            *:--map | \
            *:--window | \
            *:--limit | \
            *:--rate-scale | \
            *:--label | \
            *:--seed | \
            *:--base | \
            *:--batch-size | \
            *:--batch-wait | \
            *:--max-concurrency | \
            *:--max-num-batched-tokens | \
            *:--max-num-seqs | \
            *:--num-gpu-blocks | \
            *:--gpu-memory-utilization | \
            *:--block-size | \
            *:--max-model-len | \
            *:--long-prefill-token-threshold | \
            *:--watermark | \
            *:--power-cap | \
            *:--step-time-scale | \
            *:--run-id | \
            *:--duration | \
            *:--base-url | \
            *:--timeout | \
            *:--retries | \
            *:--workers | \
            *:--engine-arg | \
            *:--warmup | \
            *:--max-rps | \
            *:--max-failed | \
            *:--abort-error-ratio | \
            *:--max-client-lag | \
            *:--max-age | \
            *:--by | \
            *:--where | \
            *:--baseline | \
            *:--table | \
            *:--fail-if)
            return
            ;;
        *:--lengths)
            _driftkit_words 'near-cap chat'
            return
            ;;
        *:--trace-format)
            _driftkit_words 'azure burstgpt mooncake servegen sharegpt openai-batch vllm-bench csv jsonl auto'
            return
            ;;
        *:--as)
            _driftkit_words 'recorded requests'
            return
            ;;
        *:--tokenizer)
            _driftkit_words 'builtin whitespace'
            _driftkit_paths -f
            return
            ;;
        *:--to)
            _driftkit_words 'mooncake openai-batch'
            return
            ;;
        *:--on-error)
            _driftkit_words 'fail skip'
            return
            ;;
        *:--model)
            _driftkit_words 'table prompt-length history regressor knn oracle'
            return
            ;;
        *:--state)
            _driftkit_paths -d
            return
            ;;
        estimate:--served-model)
            _driftkit_words 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b'
            return
            ;;
        schedule:--served-model | \
            run:--served-model | \
            calibrate:--served-model)
            _driftkit_words 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b'
            _driftkit_paths -f
            return
            ;;
        *:--policy)
            _driftkit_words 'fifo priority weighted sjf aging oracle-sjf random'
            return
            ;;
        *:--param)
            _driftkit_knobs
            return
            ;;
        *:--gpu)
            _driftkit_words 'a100-80gb a10g h100 h200 l4 rtx-pro-6000 rtx4090'
            return
            ;;
        *:--batching)
            _driftkit_words 'continuous static'
            return
            ;;
        *:--dispatch)
            _driftkit_words 'engine client'
            return
            ;;
        *:--engine)
            _driftkit_words 'sim http vllm'
            return
            ;;
        *:--method)
            _driftkit_words 'quantile ratio isotonic ema'
            return
            ;;
        *:--route)
            _driftkit_words 'round-robin least-loaded two-choices prefix-affinity'
            return
            ;;
        *:--endpoint)
            _driftkit_words 'completions chat'
            return
            ;;
        *:--fit)
            _driftkit_words 'engine history regressor knn'
            return
            ;;
        *:--detector)
            _driftkit_words 'sprt adwin psi ks page-hinkley kswin'
            return
            ;;
        *:--on-drift)
            _driftkit_words 'keep reset'
            return
            ;;
        *:--format)
            _driftkit_words 'table markdown csv jsonl'
            return
            ;;
        *:--color)
            _driftkit_words 'auto always never'
            return
            ;;
    esac
    case $command in
        '')
            if [[ $cur == -* ]]; then
                _driftkit_words '-V --version -h --help'
            else
                _driftkit_words 'gen estimate schedule run calibrate report'
            fi
            ;;
        gen)
            if [[ $cur == -* ]]; then
                _driftkit_words '--preset --spec --print-spec --requests --lengths --length-scale --drift --trace --trace-format --map --window --limit --rate-scale --sort --as --label --tokenizer --to --seed --on-error --rejects --config --manifest --debug --unbuffered --redact-prompt -h --help'
            fi
            ;;
        estimate)
            if [[ $cur == -* ]]; then
                _driftkit_words '--model --base --tokenizer --state --follow --served-model --unbuffered --redact-prompt --on-error --rejects --config --manifest --debug -h --help'
            else
                _driftkit_paths -f
            fi
            ;;
        schedule)
            if [[ $cur == -* ]]; then
                _driftkit_words '--policy --param --no-plan --follow --gpu --served-model --profile --batching --batch-size --batch-wait --dispatch --max-concurrency --max-num-batched-tokens --max-num-seqs --num-gpu-blocks --gpu-memory-utilization --block-size --max-model-len --long-prefill-token-threshold --enable-prefix-caching --no-enable-prefix-caching --scheduler-reserve-full-isl --no-scheduler-reserve-full-isl --watermark --async-scheduling --no-async-scheduling --power-cap --step-time-scale --unbuffered --redact-prompt --on-error --rejects --config --manifest --debug -h --help'
            else
                _driftkit_paths -f
            fi
            ;;
        run)
            if [[ $cur == -* ]]; then
                _driftkit_words '--engine --label --run-id --follow --feedback --method --state --learn --steps --duration --limit -o --output --resume --base-url --route --model --endpoint --api-key-file --insecure --timeout --retries --workers --replay-lengths --engine-arg --save-output --warmup --no-probe --max-rps --max-failed --abort-error-ratio --max-client-lag --telemetry --strict --dry-run --gpu --served-model --profile --batching --batch-size --batch-wait --dispatch --max-concurrency --max-num-batched-tokens --max-num-seqs --num-gpu-blocks --gpu-memory-utilization --block-size --max-model-len --long-prefill-token-threshold --enable-prefix-caching --no-enable-prefix-caching --scheduler-reserve-full-isl --no-scheduler-reserve-full-isl --watermark --async-scheduling --no-async-scheduling --power-cap --step-time-scale --seed --unbuffered --redact-prompt --on-error --rejects --config --manifest --debug -h --help'
            else
                _driftkit_paths -f
            fi
            ;;
        calibrate)
            if [[ $cur == -* ]]; then
                _driftkit_words '--method --state --sort --live --fit --embed --max-age --drift --detector --alarms --on-drift --fail-on-drift --gpu --served-model --profile --batching --batch-size --batch-wait --dispatch --max-concurrency --max-num-batched-tokens --max-num-seqs --num-gpu-blocks --gpu-memory-utilization --block-size --max-model-len --long-prefill-token-threshold --enable-prefix-caching --no-enable-prefix-caching --scheduler-reserve-full-isl --no-scheduler-reserve-full-isl --watermark --async-scheduling --no-async-scheduling --power-cap --step-time-scale --unbuffered --redact-prompt --on-error --rejects --config --manifest --debug -h --help'
            else
                _driftkit_paths -f
            fi
            ;;
        report)
            if [[ $cur == -* ]]; then
                _driftkit_words '--by --where --baseline --table --telemetry --trend --fail-if --format --color --seed --on-error --rejects --config --manifest --debug -h --help'
            else
                _driftkit_paths -f
            fi
            ;;
    esac
}

complete -F _driftkit driftkit
