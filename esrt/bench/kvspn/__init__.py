"""Measurements of translation on the device alone: one module a section of docs/benchmarks/kvspn.md."""
