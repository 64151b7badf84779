"""Learning from what was observed: how far estimates were off, and what to multiply them with."""
