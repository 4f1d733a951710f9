"""What measures: each command regenerates one section of a page under docs/benchmarks."""
