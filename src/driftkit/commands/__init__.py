"""One file per subcommand: parse, call the domain, write."""
