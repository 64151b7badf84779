"""Workloads that ship with driftkit, each a spec file beside this one."""

from __future__ import annotations

NAMES = ("driftsched",)


def text(name: str) -> bytes:
    """The file of the preset `name`, one of NAMES (domain code that opens a file, our own)."""
    from importlib import resources

    return resources.files(__name__).joinpath(f"{name}.toml").read_bytes()
