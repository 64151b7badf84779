"""Build driftkit as it is released, install it into an empty environment, and use it from there.

    python tools/check_install.py

The sdist is built from the working tree, the wheel from the sdist, and the wheel is installed without extras.
It exits 1 with a line that says what does not hold: a file that the wheel lacks, a command that fails, bytes
that machine code writes and plain Python does not, a wheel without machine code in CI, or a base install of
over 26 distributions or 320 MB. Needs `build` (the extra `test`) and a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_DISTRIBUTIONS = 24
MOST_MB = 320

IN_PACKAGE = (
    "driftkit/py.typed",
    "driftkit/engines/sim/profiles/gpu/l4.toml",
    "driftkit/engines/sim/profiles/model/qwen1.5-1.8b.toml",
    "driftkit/estimation/tokenizers/builtin.bpe.gz",
)
#: where each folder's files go, under the prefix of the installation
SHARED = {
    "man/*.1": "share/man/man1",
    "man/*.5": "share/man/man5",
    "completions/driftkit.bash": "share/bash-completion/completions",
    "completions/_driftkit": "share/zsh/site-functions",
    "completions/driftkit.fish": "share/fish/vendor_completions.d",
}
RENAMED = {"driftkit.bash": "driftkit"}  # bash-completion looks for the command's name
PIPE = "gen --preset driftsched --requests 60", "estimate", "schedule --policy sjf", "run"
COUNT = "from importlib.metadata import distributions; print(*sorted({d.name for d in distributions()}))"
BROUGHT = {"pip", "setuptools"}  # by the empty environment itself


def shared_files() -> dict[Path, str]:
    """Each file that is installed under `share`, and where, from the prefix."""
    return {
        path: f"{folder}/{RENAMED.get(path.name, path.name)}"
        for pattern, folder in SHARED.items()
        for path in sorted(ROOT.glob(pattern))
    }


def build(folder: Path) -> Path:
    """The wheel, built from the sdist that was built from the working tree."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def missing(wheel: Path) -> list[str]:
    """What should be in the wheel and is not."""
    names = zipfile.ZipFile(wheel).namelist()
    stem = "-".join(wheel.name.split("-")[:2])
    profiles = (ROOT / "src").glob("driftkit/engines/sim/profiles/*/*.toml")
    wanted = {
        *IN_PACKAGE,
        *(str(path.relative_to(ROOT / "src")) for path in profiles),
        *(f"{stem}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")),
        *(f"{stem}.data/data/{place}" for place in shared_files().values()),
    }
    return sorted(wanted - set(names))


def megabytes(folder: Path) -> float:
    """Room on disk, in units of 1,000,000 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        if lacks := missing(wheel):
            raise SystemExit(f"{wheel.name} lacks {', '.join(lacks)}")
        print(f"{wheel.name}, built from the sdist, has all it should")
        if wheel.name.endswith("-none-any.whl"):
            if "CI" in os.environ:
                raise SystemExit("the wheel is plain Python: `python -m build` says why")
            print("the wheel is plain Python")
        else:
            print("the wheel is compiled")

        prefix = folder / "venv"
        venv.create(prefix, with_pip=True)
        python, driftkit = prefix / "bin" / "python", prefix / "bin" / "driftkit"
        before = megabytes(prefix)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True
        )
        distributions = sorted({*subprocess.check_output([python, "-c", COUNT], text=True).split()} - BROUGHT)
        size = megabytes(prefix) - before
        print(f"base install: {len(distributions)} distributions (at most {MOST_DISTRIBUTIONS}), ", end="")
        print(f"{size:.0f} MB (at most {MOST_MB})")
        if len(distributions) > MOST_DISTRIBUTIONS or size > MOST_MB:
            raise SystemExit("the base install is too large: " + " ".join(distributions))

        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        version = subprocess.check_output([driftkit, "--version"], text=True, cwd=elsewhere).strip()
        pipe = "set -o pipefail; " + " | ".join(f"{driftkit} {stage}" for stage in PIPE)
        completions = subprocess.check_output(["bash", "-c", pipe], cwd=elsewhere)
        if completions.count(b"\n") != 60 or completions.count(b'"finished_s"') != 60:
            raise SystemExit(f"the pipe made {len(completions.splitlines())} records of 60")
        sources = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        if subprocess.check_output(["bash", "-c", pipe], cwd=elsewhere, env=sources) != completions:
            raise SystemExit("installed, the pipe writes other bytes than from the sources")
        for source, place in shared_files().items():
            if (prefix / place).read_bytes() != source.read_bytes():
                raise SystemExit(f"{place} is not {source.relative_to(ROOT)}")
        print(f"{version}: {len(PIPE)} stages piped 60 records from another folder")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
