"""What a real run drew and held while it went on: GPUs, processes, servers' own counts."""
