"""How good a system is: a manifest through it, its results as JSON lines, scores of each direction, and reports."""
