"""Imports the compiled modules of a driftkit that is installed in place, while they are of its sources as they are.

hatch_build.py installs this file as the package `driftkit_compiled`, with what it compiled, and a .pth file that
imports it whenever Python starts. Whoever edits a source, or checks out another version, runs the sources until
the next `make` or `pip install -e .`: machine code of other sources is never run.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from typing import Any

HERE = os.path.dirname(__file__)


def are_of(sources: str) -> bool:
    """Whether every compiled module was made of the file of its name in the folder `sources`."""
    import hashlib

    with open(os.path.join(HERE, "sources.sha256")) as file:
        for line in file:
            digest, name = line.split()
            with open(os.path.join(sources, name), "rb") as source:
                if hashlib.sha256(source.read()).hexdigest() != digest:
                    return False
    return True


class CompiledModules:
    """A finder of modules: all that were compiled, or none."""

    def __init__(self) -> None:
        self._current: bool | None = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("driftkit.") and not name.endswith("__mypyc"):
            return None
        file = os.path.join(HERE, *name.split(".")) + EXTENSION_SUFFIXES[0]
        if not os.path.exists(file):
            return None
        if self._current is None:
            self._current = are_of(os.path.dirname(sys.modules["driftkit"].__path__[0]))
        if not self._current:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, file)


sys.meta_path.insert(0, CompiledModules())
