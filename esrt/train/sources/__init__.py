"""Where speech and parallel text come from. Each source turns an unpacked package into manifest rows."""
