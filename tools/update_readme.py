"""Put into README.md what `examples/demo.sh` prints: the text in the fence after each `<!-- demo ... -->`.

    python tools/update_readme.py           # rewrite
    python tools/update_readme.py --check   # exit 1 when README.md is not what the demo prints

`driftkit` must be on the path.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- demo: (?P<title>[^>]+) -->\n\n(?:```\n.*?```\n\n)?", re.DOTALL)


def demo() -> dict[str, str]:
    """The demo's tables by title."""
    command = ["bash", str(ROOT / "examples" / "demo.sh")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tables: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=\S)", printed):
        title, _, body = part.partition("\n")
        if title:
            tables[title.strip()] = body.strip("\n")
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    tables = demo()
    path = ROOT / "README.md"
    before = path.read_text()

    def block(match: re.Match[str]) -> str:
        title = match["title"]
        return f"<!-- demo: {title} -->\n\n```\n{title}\n\n{tables[title]}\n```\n\n"

    after = BLOCK.sub(block, before)
    if check:
        if after != before:
            print("README.md is not what the demo prints: run tools/update_readme.py", file=sys.stderr)
            return 1
        return 0
    path.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
