"""One file per subcommand: parse, call the domain, write."""

#: where a command's context keeps the manifest that was asked for
MANIFEST = "driftkit.manifest"
