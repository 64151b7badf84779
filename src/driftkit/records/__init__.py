"""One flat JSON object a line: what the fields mean, how lines are read and written."""
