"""Where speech and parallel text come from. Each source gives manifest rows."""
