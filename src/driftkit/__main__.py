"""`driftkit`, and `python -m driftkit`."""

from driftkit import interrupts


def main() -> None:
    """Run the command line; see `driftkit.cli`, which is imported under guard."""
    interrupts.end_at_once()
    from driftkit.cli import main

    main()


if __name__ == "__main__":
    main()
