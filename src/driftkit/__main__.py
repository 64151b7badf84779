"""`python -m driftkit`."""

from driftkit.cli import main

main()
