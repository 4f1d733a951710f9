"""Measurements of the device's half: its speed, memory, size and what its int8 costs."""
