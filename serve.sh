export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1
exec nice -n 5 /tmp/h/vllm-venv/bin/python -m vllm.entrypoints.openai.api_server --model /tmp/h/tm/model --load-format dummy --skip-tokenizer-init --enforce-eager --num-gpu-blocks-override 48 --block-size 32 --max-num-seqs 64 --max-num-batched-tokens 2048 --max-model-len 512 --port 8911 --dtype float32
