"""Trained attackers: what each of them reads off what it holds."""
