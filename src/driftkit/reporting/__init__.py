"""From completions to tables: latency, throughput, error, classes, fairness, paired differences."""
