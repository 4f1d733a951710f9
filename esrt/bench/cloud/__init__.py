"""Measurements of the cloud's half: real server processes and clients that send real frames."""
