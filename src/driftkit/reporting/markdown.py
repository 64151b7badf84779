"""Tables as GitHub-flavoured Markdown, for issues and wikis."""

from __future__ import annotations

from driftkit.errors import printable
from driftkit.reporting.tables import Table, shown


def rendered(tables: list[Table]) -> str:
    """A heading, the table, its notes as a list."""
    parts = []
    for table in tables:
        lines = [f"## {escaped(printable(table.title))}", ""]
        if table.rows:
            lines.append("| " + " | ".join(escaped(heading) for _, heading in table.columns) + " |")
            lines.append(
                "|" + "|".join("---:" if table.numeric(key) else "---" for key, _ in table.columns) + "|"
            )
            lines += [
                "| " + " | ".join(escaped(shown(row.get(key))) for key, _ in table.columns) + " |"
                for row in table.rows
            ]
            lines.append("")
        lines += [f"- {escaped(note)}" for note in table.notes]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that stays in its cell and is no markup."""
    for character in "\\|`<>*[":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
