"""Imports the compiled modules of a driftkit that is installed in place, while they are of its sources.

hatch_build.py installs this file as the package `driftkit_compiled`, with what it compiled, and a .pth file
that imports it whenever Python starts: hence nothing is imported here before it is needed. Whoever edits a
source, or checks out another version, runs the sources until the next `make` or `pip install -e .`.
"""

from __future__ import annotations

import sys

HERE = __file__.rpartition("/")[0]
with open(f"{HERE}/sources.sha256") as lines:
    DIGESTS = {path: digest for digest, path in map(str.split, lines)}
PATHS = {path.removesuffix(".py").replace("/", "."): path for path in DIGESTS}


def current() -> bool:
    """Whether every module was compiled from the file that would be imported instead."""
    import hashlib
    from pathlib import Path

    sources = Path(sys.modules["driftkit"].__path__[0]).parent
    for path, digest in DIGESTS.items():
        try:
            source = (sources / path).read_bytes()
        except FileNotFoundError:
            return False
        if hashlib.sha256(source).hexdigest() != digest:
            return False
    return True


class CompiledModules:
    """A finder of modules: of all that were compiled, or, since they call each other, of none."""

    checked = stale = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in PATHS:
            return None
        if not self.checked:
            self.checked, self.stale = True, not current()
        if self.stale:
            return None
        from importlib.machinery import EXTENSION_SUFFIXES
        from importlib.util import spec_from_file_location

        return spec_from_file_location(
            name, f"{HERE}/{PATHS[name].removesuffix('.py')}{EXTENSION_SUFFIXES[0]}"
        )


sys.meta_path.insert(0, CompiledModules())
