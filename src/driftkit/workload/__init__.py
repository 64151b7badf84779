"""Where requests come from: the paper's workload, made up, or a real trace, read."""
