"""One file per subcommand: parse, call the domain, write."""

#: where a command's context keeps the manifest that was asked for
MANIFEST = "driftkit.manifest"

#: in the order of the pipe
COMMANDS = {
    "gen": "Make a tenant workload, or read a trace.",
    "estimate": "Add a token budget to every request.",
    "schedule": "Order requests under a policy, and plan when each starts.",
    "run": "Execute requests and record what happened.",
    "calibrate": "Learn from completions how wrong the estimates are.",
    "report": "Print latency, error and fairness tables.",
}
