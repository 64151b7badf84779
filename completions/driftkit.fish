# fish completion for driftkit
# Made by tools/make_docs.py from the commands; do not edit.

# Whether the first word that is no option is $argv; without $argv, whether there is none yet.
function __driftkit_command
    set -l previous ''
    for word in (commandline -opc)[2..-1]
        set -l before $previous
        set previous $word
        string match -q -- '-*' $word; and continue
        contains -- $before; and continue
        test "$word" = "$argv"
        return
    end
    test -z "$argv"
end

function __driftkit_knobs
    set -l words (string split = -- (commandline -opc))
    set -l at (contains -i -- --policy $words); or return
    set -l policy (math $at + 1)
    switch "$words[$policy]"
        case aging
            printf '%s\n' rate=
        case random
            printf '%s\n' seed=
    end
end

complete -c driftkit -f
complete -c driftkit -n __driftkit_command -s V -l version -d 'Show the version and exit'
complete -c driftkit -n __driftkit_command -s h -l help -d 'Show this message and exit'
complete -c driftkit -n __driftkit_command -a gen -d 'Make a tenant workload, or read a trace'
complete -c driftkit -n __driftkit_command -a estimate -d 'Add a token budget to every request'
complete -c driftkit -n __driftkit_command -a schedule -d 'Order requests under a policy, and plan when each starts'
complete -c driftkit -n __driftkit_command -a run -d 'Execute requests and record what happened'
complete -c driftkit -n __driftkit_command -a calibrate -d 'Learn from completions how wrong the estimates are'
complete -c driftkit -n __driftkit_command -a report -d 'Print latency, error and fairness tables'

complete -c driftkit -n '__driftkit_command gen' -l preset -x -a 'driftsched' -d 'Make this workload'
complete -c driftkit -n '__driftkit_command gen' -l spec -r -F -d 'Make the workload that this TOML file describes (- is stdin)'
complete -c driftkit -n '__driftkit_command gen' -l print-spec -x -a 'driftsched' -d 'Print the preset as a file for --spec, and end'
complete -c driftkit -n '__driftkit_command gen' -l requests -x -d 'How many requests in all, at most, instead of what the workload says (driftsched: 3000)'
complete -c driftkit -n '__driftkit_command gen' -l lengths -x -a 'near-cap chat' -d 'Take all output lengths from this model of the workload (driftsched: near-cap, chat)'
complete -c driftkit -n '__driftkit_command gen' -l length-scale -x -d 'Multiply the length model\'s median, to see what hangs on it'
complete -c driftkit -n '__driftkit_command gen' -l trace -r -F -d 'Read this trace (gzipped or not; - is standard input)'
complete -c driftkit -n '__driftkit_command gen' -l trace-format -x -a 'azure burstgpt mooncake servegen sharegpt openai-batch vllm-bench csv jsonl auto' -d 'Format of the trace: azure, burstgpt, mooncake, servegen, sharegpt, openai-batch, vllm-bench, csv, jsonl; auto looks at its first bytes'
complete -c driftkit -n '__driftkit_command gen' -l map -x -d 'With csv and jsonl: which column, or JSON key with dots, is which of driftkit\'s fields; THEIRS/1000 divides, as milliseconds need. Repeatable'
complete -c driftkit -n '__driftkit_command gen' -l window -x -d 'Only what arrives then, in seconds of the trace'
complete -c driftkit -n '__driftkit_command gen' -l limit -x -d 'Only the first N requests of that'
complete -c driftkit -n '__driftkit_command gen' -l rate-scale -x -d 'Divide the arrivals by X: 2 sends the same requests twice as fast'
complete -c driftkit -n '__driftkit_command gen' -l sort -d 'Read the whole trace and order it by arrival'
complete -c driftkit -n '__driftkit_command gen' -l as -x -a 'recorded requests' -d 'A trace with timings gives completions; requests leaves the timings out, to run them again'
complete -c driftkit -n '__driftkit_command gen' -l label -x -d 'Name of the recorded run'
complete -c driftkit -n '__driftkit_command gen' -l tokenizer -r -F -a 'builtin whitespace' -d 'What counts text whose length is needed: a sharegpt answer, a prompt under --to mooncake'
complete -c driftkit -n '__driftkit_command gen' -l to -x -a 'mooncake openai-batch' -d 'Write what other load generators replay: mooncake, openai-batch'
complete -c driftkit -n '__driftkit_command gen' -l seed -x -d 'Seed of every random stream'
complete -c driftkit -n '__driftkit_command gen' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command gen' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command gen' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command gen' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command gen' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command gen' -l unbuffered -d 'Flush every record'
complete -c driftkit -n '__driftkit_command gen' -l redact-prompt -d 'Leave prompt and messages out of what is written'
complete -c driftkit -n '__driftkit_command gen' -s h -l help -d 'Show this message and exit'

complete -c driftkit -n '__driftkit_command estimate' -F
complete -c driftkit -n '__driftkit_command estimate' -l model -x -a 'table prompt-length oracle' -d 'How the output length is estimated: table, prompt-length, oracle'
complete -c driftkit -n '__driftkit_command estimate' -l tokenizer -r -F -a 'builtin whitespace' -d 'What counts the prompts'
complete -c driftkit -n '__driftkit_command estimate' -l state -x -a '(__fish_complete_directories)' -d 'Apply what calibrate has learned there'
complete -c driftkit -n '__driftkit_command estimate' -l served-model -x -a 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b' -d 'With --state: the model that the requests are for'
complete -c driftkit -n '__driftkit_command estimate' -l unbuffered -d 'Flush every record'
complete -c driftkit -n '__driftkit_command estimate' -l redact-prompt -d 'Leave prompt and messages out of what is written'
complete -c driftkit -n '__driftkit_command estimate' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command estimate' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command estimate' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command estimate' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command estimate' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command estimate' -s h -l help -d 'Show this message and exit'

complete -c driftkit -n '__driftkit_command schedule' -F
complete -c driftkit -n '__driftkit_command schedule' -l policy -x -a 'fifo priority weighted sjf aging oracle-sjf random' -d 'Who is served next: fifo, priority, weighted, sjf, aging, oracle-sjf, random'
complete -c driftkit -n '__driftkit_command schedule' -l param -x -a '(__driftkit_knobs)' -d 'A knob of the policy; repeatable'
complete -c driftkit -n '__driftkit_command schedule' -l no-plan -d 'Rank by (priority, arrival) only; simulate nothing'
complete -c driftkit -n '__driftkit_command schedule' -l follow -d 'Add policy and priority as records come, in input order'
complete -c driftkit -n '__driftkit_command schedule' -l gpu -x -a 'a100-80gb a10g h100 h200 l4 rtx-pro-6000 rtx4090' -d 'GPU profile: a100-80gb, a10g, h100, h200, l4, rtx-pro-6000, rtx4090'
complete -c driftkit -n '__driftkit_command schedule' -l served-model -r -F -a 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b' -d 'Model profile: llama-2-7b, llama-3.1-8b, opt-350m, qwen1.5-1.8b, qwen2.5-7b; or a Hugging Face config.json, or its folder'
complete -c driftkit -n '__driftkit_command schedule' -l profile -r -F -d 'A GPU and a model of your own: a TOML file with every constant of both, in tables [gpu] and [model]'
complete -c driftkit -n '__driftkit_command schedule' -l batching -x -a 'continuous static' -d 'Iteration-level batching as vLLM does it, or the paper\'s gangs'
complete -c driftkit -n '__driftkit_command schedule' -l batch-size -x -d 'Requests in a gang'
complete -c driftkit -n '__driftkit_command schedule' -l batch-wait -x -d 'How long a gang waits to fill'
complete -c driftkit -n '__driftkit_command schedule' -l dispatch -x -a 'engine client' -d 'Who holds the queue'
complete -c driftkit -n '__driftkit_command schedule' -l max-concurrency -x -d 'Requests in flight under client dispatch'
complete -c driftkit -n '__driftkit_command schedule' -l max-num-batched-tokens -x -d 'Tokens in a step'
complete -c driftkit -n '__driftkit_command schedule' -l max-num-seqs -x -d 'Requests in a step'
complete -c driftkit -n '__driftkit_command schedule' -l num-gpu-blocks -x -d 'KV blocks, null block included'
complete -c driftkit -n '__driftkit_command schedule' -l gpu-memory-utilization -x -d 'Share of the memory that the engine takes'
complete -c driftkit -n '__driftkit_command schedule' -l block-size -x -d 'Tokens in a KV block'
complete -c driftkit -n '__driftkit_command schedule' -l max-model-len -x -d 'Longest context'
complete -c driftkit -n '__driftkit_command schedule' -l long-prefill-token-threshold -x -d 'Most prompt tokens of one request in a step; 0 is no limit'
complete -c driftkit -n '__driftkit_command schedule' -l enable-prefix-caching -l no-enable-prefix-caching -d 'Find prompts\' beginnings, and what a preempted request had computed, in the KV cache'
complete -c driftkit -n '__driftkit_command schedule' -l scheduler-reserve-full-isl -l no-scheduler-reserve-full-isl -d 'Admit only whom the KV cache has blocks for to the last known token'
complete -c driftkit -n '__driftkit_command schedule' -l watermark -x -d 'Share of the KV blocks that an admission leaves free'
complete -c driftkit -n '__driftkit_command schedule' -l async-scheduling -l no-async-scheduling -d 'Plan a step while the one before it runs, as vLLM does on a GPU'
complete -c driftkit -n '__driftkit_command schedule' -l step-time-scale -x -d 'Multiply every step\'s time, to see what hangs on it'
complete -c driftkit -n '__driftkit_command schedule' -l unbuffered -d 'Flush every record'
complete -c driftkit -n '__driftkit_command schedule' -l redact-prompt -d 'Leave prompt and messages out of what is written'
complete -c driftkit -n '__driftkit_command schedule' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command schedule' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command schedule' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command schedule' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command schedule' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command schedule' -s h -l help -d 'Show this message and exit'

complete -c driftkit -n '__driftkit_command run' -F
complete -c driftkit -n '__driftkit_command run' -l engine -x -a 'sim' -d 'What executes'
complete -c driftkit -n '__driftkit_command run' -l label -x -d 'Name of the run in reports'
complete -c driftkit -n '__driftkit_command run' -l run-id -x -d 'The run\'s identity'
complete -c driftkit -n '__driftkit_command run' -l follow -d 'Take requests as they come, in order of arrival, in flat memory; the run\'s identity is that of the options and the first request'
complete -c driftkit -n '__driftkit_command run' -l feedback -d 'Calibrate online, and order by the calibrated estimates'
complete -c driftkit -n '__driftkit_command run' -l method -x -a 'ratio ema' -d 'With --feedback: how to calibrate'
complete -c driftkit -n '__driftkit_command run' -l state -x -a '(__fish_complete_directories)' -d 'With --feedback: start from what calibrate has learned there (it is not changed)'
complete -c driftkit -n '__driftkit_command run' -l gpu -x -a 'a100-80gb a10g h100 h200 l4 rtx-pro-6000 rtx4090' -d 'GPU profile: a100-80gb, a10g, h100, h200, l4, rtx-pro-6000, rtx4090'
complete -c driftkit -n '__driftkit_command run' -l served-model -r -F -a 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b' -d 'Model profile: llama-2-7b, llama-3.1-8b, opt-350m, qwen1.5-1.8b, qwen2.5-7b; or a Hugging Face config.json, or its folder'
complete -c driftkit -n '__driftkit_command run' -l profile -r -F -d 'A GPU and a model of your own: a TOML file with every constant of both, in tables [gpu] and [model]'
complete -c driftkit -n '__driftkit_command run' -l batching -x -a 'continuous static' -d 'Iteration-level batching as vLLM does it, or the paper\'s gangs'
complete -c driftkit -n '__driftkit_command run' -l batch-size -x -d 'Requests in a gang'
complete -c driftkit -n '__driftkit_command run' -l batch-wait -x -d 'How long a gang waits to fill'
complete -c driftkit -n '__driftkit_command run' -l dispatch -x -a 'engine client' -d 'Who holds the queue'
complete -c driftkit -n '__driftkit_command run' -l max-concurrency -x -d 'Requests in flight under client dispatch'
complete -c driftkit -n '__driftkit_command run' -l max-num-batched-tokens -x -d 'Tokens in a step'
complete -c driftkit -n '__driftkit_command run' -l max-num-seqs -x -d 'Requests in a step'
complete -c driftkit -n '__driftkit_command run' -l num-gpu-blocks -x -d 'KV blocks, null block included'
complete -c driftkit -n '__driftkit_command run' -l gpu-memory-utilization -x -d 'Share of the memory that the engine takes'
complete -c driftkit -n '__driftkit_command run' -l block-size -x -d 'Tokens in a KV block'
complete -c driftkit -n '__driftkit_command run' -l max-model-len -x -d 'Longest context'
complete -c driftkit -n '__driftkit_command run' -l long-prefill-token-threshold -x -d 'Most prompt tokens of one request in a step; 0 is no limit'
complete -c driftkit -n '__driftkit_command run' -l enable-prefix-caching -l no-enable-prefix-caching -d 'Find prompts\' beginnings, and what a preempted request had computed, in the KV cache'
complete -c driftkit -n '__driftkit_command run' -l scheduler-reserve-full-isl -l no-scheduler-reserve-full-isl -d 'Admit only whom the KV cache has blocks for to the last known token'
complete -c driftkit -n '__driftkit_command run' -l watermark -x -d 'Share of the KV blocks that an admission leaves free'
complete -c driftkit -n '__driftkit_command run' -l async-scheduling -l no-async-scheduling -d 'Plan a step while the one before it runs, as vLLM does on a GPU'
complete -c driftkit -n '__driftkit_command run' -l step-time-scale -x -d 'Multiply every step\'s time, to see what hangs on it'
complete -c driftkit -n '__driftkit_command run' -l unbuffered -d 'Flush every record'
complete -c driftkit -n '__driftkit_command run' -l redact-prompt -d 'Leave prompt and messages out of what is written'
complete -c driftkit -n '__driftkit_command run' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command run' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command run' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command run' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command run' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command run' -s h -l help -d 'Show this message and exit'

complete -c driftkit -n '__driftkit_command calibrate' -F
complete -c driftkit -n '__driftkit_command calibrate' -l method -x -a 'ratio ema' -d 'How to learn: ratio, ema'
complete -c driftkit -n '__driftkit_command calibrate' -l state -x -a '(__fish_complete_directories)' -d 'Start from what was learned there, and keep there what is learned now'
complete -c driftkit -n '__driftkit_command calibrate' -l sort -d 'Read all, then take the completions in order'
complete -c driftkit -n '__driftkit_command calibrate' -l live -d 'Take records as they come, whatever their instants say'
complete -c driftkit -n '__driftkit_command calibrate' -l fit -x -a 'engine' -d 'Fit the simulator\'s constants to completions of a real run, and write a profile'
complete -c driftkit -n '__driftkit_command calibrate' -l gpu -x -a 'a100-80gb a10g h100 h200 l4 rtx-pro-6000 rtx4090' -d 'GPU profile: a100-80gb, a10g, h100, h200, l4, rtx-pro-6000, rtx4090'
complete -c driftkit -n '__driftkit_command calibrate' -l served-model -r -F -a 'llama-2-7b llama-3.1-8b opt-350m qwen1.5-1.8b qwen2.5-7b' -d 'Model profile: llama-2-7b, llama-3.1-8b, opt-350m, qwen1.5-1.8b, qwen2.5-7b; or a Hugging Face config.json, or its folder'
complete -c driftkit -n '__driftkit_command calibrate' -l profile -r -F -d 'A GPU and a model of your own: a TOML file with every constant of both, in tables [gpu] and [model]'
complete -c driftkit -n '__driftkit_command calibrate' -l batching -x -a 'continuous static' -d 'Iteration-level batching as vLLM does it, or the paper\'s gangs'
complete -c driftkit -n '__driftkit_command calibrate' -l batch-size -x -d 'Requests in a gang'
complete -c driftkit -n '__driftkit_command calibrate' -l batch-wait -x -d 'How long a gang waits to fill'
complete -c driftkit -n '__driftkit_command calibrate' -l dispatch -x -a 'engine client' -d 'Who holds the queue'
complete -c driftkit -n '__driftkit_command calibrate' -l max-concurrency -x -d 'Requests in flight under client dispatch'
complete -c driftkit -n '__driftkit_command calibrate' -l max-num-batched-tokens -x -d 'Tokens in a step'
complete -c driftkit -n '__driftkit_command calibrate' -l max-num-seqs -x -d 'Requests in a step'
complete -c driftkit -n '__driftkit_command calibrate' -l num-gpu-blocks -x -d 'KV blocks, null block included'
complete -c driftkit -n '__driftkit_command calibrate' -l gpu-memory-utilization -x -d 'Share of the memory that the engine takes'
complete -c driftkit -n '__driftkit_command calibrate' -l block-size -x -d 'Tokens in a KV block'
complete -c driftkit -n '__driftkit_command calibrate' -l max-model-len -x -d 'Longest context'
complete -c driftkit -n '__driftkit_command calibrate' -l long-prefill-token-threshold -x -d 'Most prompt tokens of one request in a step; 0 is no limit'
complete -c driftkit -n '__driftkit_command calibrate' -l enable-prefix-caching -l no-enable-prefix-caching -d 'Find prompts\' beginnings, and what a preempted request had computed, in the KV cache'
complete -c driftkit -n '__driftkit_command calibrate' -l scheduler-reserve-full-isl -l no-scheduler-reserve-full-isl -d 'Admit only whom the KV cache has blocks for to the last known token'
complete -c driftkit -n '__driftkit_command calibrate' -l watermark -x -d 'Share of the KV blocks that an admission leaves free'
complete -c driftkit -n '__driftkit_command calibrate' -l async-scheduling -l no-async-scheduling -d 'Plan a step while the one before it runs, as vLLM does on a GPU'
complete -c driftkit -n '__driftkit_command calibrate' -l step-time-scale -x -d 'Multiply every step\'s time, to see what hangs on it'
complete -c driftkit -n '__driftkit_command calibrate' -l unbuffered -d 'Flush every record'
complete -c driftkit -n '__driftkit_command calibrate' -l redact-prompt -d 'Leave prompt and messages out of what is written'
complete -c driftkit -n '__driftkit_command calibrate' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command calibrate' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command calibrate' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command calibrate' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command calibrate' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command calibrate' -s h -l help -d 'Show this message and exit'

complete -c driftkit -n '__driftkit_command report' -F
complete -c driftkit -n '__driftkit_command report' -l by -x -d 'Split rows by this field too; repeatable'
complete -c driftkit -n '__driftkit_command report' -l where -x -d 'Only these completions; all must hold if repeated'
complete -c driftkit -n '__driftkit_command report' -l baseline -x -d 'Compare every other label with this one'
complete -c driftkit -n '__driftkit_command report' -l table -x -d 'Only this table, by its name in --format jsonl; repeatable'
complete -c driftkit -n '__driftkit_command report' -l trend -d 'Add a row per run: is it still true tonight?'
complete -c driftkit -n '__driftkit_command report' -l fail-if -x -d 'Exit with 4 if this holds; repeatable'
complete -c driftkit -n '__driftkit_command report' -l format -x -a 'table markdown csv jsonl' -d 'For people, or for a program: one summary record per row'
complete -c driftkit -n '__driftkit_command report' -l color -x -a 'auto always never' -d 'Colour; auto asks the terminal, NO_COLOR and TERM'
complete -c driftkit -n '__driftkit_command report' -l seed -x -d 'Seed of every random stream'
complete -c driftkit -n '__driftkit_command report' -l on-error -x -a 'fail skip' -d 'What a bad line does: end the run, or be left out (exit status 3)'
complete -c driftkit -n '__driftkit_command report' -l rejects -r -F -d 'Copy skipped lines there'
complete -c driftkit -n '__driftkit_command report' -l config -r -F -d 'Take options that are not given from the [COMMAND] table of this TOML file'
complete -c driftkit -n '__driftkit_command report' -l manifest -r -F -d 'Write there what was called, on which input, with which versions'
complete -c driftkit -n '__driftkit_command report' -l debug -d 'Show a traceback with an error'
complete -c driftkit -n '__driftkit_command report' -s h -l help -d 'Show this message and exit'
