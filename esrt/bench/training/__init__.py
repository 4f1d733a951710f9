"""Measurements of training: `python -m esrt.bench.training SECTION` writes one of docs/benchmarks/training.md."""
