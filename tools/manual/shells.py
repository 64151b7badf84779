"""Completions for bash, zsh and fish: static scripts, because Python at every TAB would be felt."""

from __future__ import annotations

from manual import bash, fish, surface, zsh


def scripts() -> dict[str, str]:
    """The scripts by file name."""
    group, commands = surface.driftkit(), list(surface.subcommands())
    lines = {
        "driftkit.bash": bash.script(group, commands),
        "_driftkit": zsh.script(group, commands),
        "driftkit.fish": fish.script(group, commands),
    }
    return {name: "\n".join(text) + "\n" for name, text in lines.items()}
