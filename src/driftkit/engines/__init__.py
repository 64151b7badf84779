"""What executes requests: one dispatcher, one small protocol, and the engines behind it."""
