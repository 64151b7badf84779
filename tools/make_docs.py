"""Make the man pages and the shell completions from the commands.

    python tools/make_docs.py           # rewrite man/ and completions/
    python tools/make_docs.py --check   # exit 1 and name what is not as the commands are

driftkit must be importable (`make` has it installed in .venv).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from manual import pages, records_page, shells, spec_page

ROOT = Path(__file__).resolve().parent.parent


def documents() -> dict[str, str]:
    """Every file that is made, by its path."""
    made = {f"man/{name}": text for name, text in pages.pages().items()}
    made["man/driftkit-records.5"] = records_page.page()
    made["man/driftkit-spec.5"] = spec_page.page()
    return made | {f"completions/{name}": text for name, text in shells.scripts().items()}


def differing(made: dict[str, str]) -> list[str]:
    """Paths whose file is not what was made of it, and files that nothing makes (any more)."""
    there = {f"{f}/{p.name}" for f in ("man", "completions") for p in (ROOT / f).glob("*")}
    wrong = [path for path in made if path not in there or (ROOT / path).read_text() != made[path]]
    return sorted([*wrong, *(there - set(made))])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = documents()
    wrong = differing(made)
    if check:
        for path in wrong:
            print(f"{path} is not what the commands say: run tools/make_docs.py", file=sys.stderr)
        return 1 if wrong else 0
    for path in wrong:
        if path in made:
            (ROOT / path).parent.mkdir(exist_ok=True)
            (ROOT / path).write_text(made[path])
        else:
            (ROOT / path).unlink()
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
