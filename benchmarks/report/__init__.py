"""The results of `pytest benchmarks/ --benchmark-only` as a page of tables and pictures, and two of them compared."""
