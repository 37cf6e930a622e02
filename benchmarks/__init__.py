"""Side-by-side measurements; run them as modules, for example `python -m benchmarks.scans --help`."""
