"""Who is served next. A static policy is an integer key; an online policy watches the queue."""
