"""The profiles that come with driftkit: files that `--profile` reads, one table each."""

from __future__ import annotations

GPUS = ("a100-80gb", "a10g", "h100", "h200", "l4", "rtx-pro-6000", "rtx4090")
MODELS = ("llama-2-7b", "llama-3.1-8b", "opt-350m", "qwen1.5-1.8b", "qwen2.5-7b")


def text(kind: str, name: str) -> bytes:
    """The file of a profile; `kind` is `gpu` or `model` (domain code that opens a file, our own)."""
    from importlib import resources

    return resources.files(__name__).joinpath(kind, f"{name}.toml").read_bytes()
