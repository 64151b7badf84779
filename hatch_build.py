"""Compiles the simulator's hot modules with mypyc when driftkit is built; without a C compiler it does not.

The simulator makes some sixty calls of small functions per request, and none of them stands out: what is
left to save is the interpreter's own time. Requests per CPU second of Azure's conversation trace on an H100,
by benchmarks/simulator_scale.py, one way after the other (x86-64, CPython 3.11, mypyc 2.4; docs/speed.md):

    load 0.5 to 1.5, fifo and sjf          plain           compiled      times
    synchronous                    63,000-100,000   171,000-277,000    2.2-3.7
    asynchronous                   48,000-84,000    143,000-219,000    2.1-3.3
    a quarter of the KV blocks     54,000-64,000    148,000-243,000    2.6-3.8

The modules stay ordinary Python, and their sources are in every wheel. `pip install` puts the machine code
beside them; an installation in place (`pip install -e`, `make`) keeps it apart in the environment, where
tools/compiled_in_place.py lets it be imported only while it is of the sources as they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# A multiplication and an addition in one instruction round once where Python rounds twice, and the same input
# must give the same bytes, compiled or not.
CFLAGS = "-ffp-contract=off"
#: types of packages that are not there while driftkit is built do not matter to these modules
MYPY = "--ignore-missing-imports", "--follow-imports=silent"


class PlainError(Exception):
    """Why the modules cannot be compiled."""


def look_for_compiler() -> None:
    if os.environ.get("DRIFTKIT_PLAIN"):
        raise PlainError("DRIFTKIT_PLAIN is set")
    if sys.implementation.name != "cpython":
        raise PlainError(f"mypyc is for CPython, this is {sys.implementation.name}")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise PlainError(f"there is no C compiler, {compiler}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise PlainError(f"there is no {header}")


def compile_modules(source: Path, modules: list[str], folder: Path) -> list[Path]:
    """The shared objects of `modules`, made from a copy of `source` in `folder`, as paths relative to it."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    flags = {"CFLAGS": f"{os.environ.get('CFLAGS', '')} {CFLAGS}", "MYPYC_DEBUG_LEVEL": "0"}  # symbols: +60 %
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", *MYPY, *modules],
        cwd=folder,
        env={**os.environ, **flags},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if "error" in line] or ["mypyc failed"]
        raise PlainError(said[0])
    return [path.relative_to(folder) for path in folder.rglob("*.so") if folder / "build" not in path.parents]


class CompiledModules(BuildHookInterface[Any]):
    """hatchling's hook. What to compile, `modules`, and what compiles, `compiler`, are in pyproject.toml."""

    def dependencies(self) -> list[str]:
        try:
            look_for_compiler()
        except PlainError:
            return []
        return list(self.config["compiler"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()  # until the wheel is written
        folder, source, modules = Path(self._folder.name), Path(self.root, "src"), self.config["modules"]
        try:
            look_for_compiler()
            compiled = compile_modules(source, modules, folder)
        except PlainError as reason:
            self.app.display_warning(
                f"the simulator runs as plain Python, two to three times slower: {reason}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version == "editable":
            # of the copy that was compiled: the sources may have been edited since
            digests = (
                f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in modules
            )
            (folder / "sources.sha256").write_text("".join(digests))
            (folder / "driftkit_compiled.pth").write_text("import driftkit_compiled\n")
            build_data["force_include_editable"] = {
                str(folder / "driftkit_compiled.pth"): "driftkit_compiled.pth",
                str(folder / "sources.sha256"): "driftkit_compiled/sources.sha256",
                str(Path(self.root, "tools/compiled_in_place.py")): "driftkit_compiled/__init__.py",
                # the library that they share is imported by its own name
                **{
                    str(folder / path): f"driftkit_compiled/{path}" if path.parent.name else str(path)
                    for path in compiled
                },
            }
        else:
            build_data["force_include"].update({str(folder / path): str(path) for path in compiled})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
