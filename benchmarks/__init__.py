"""The benchmarks: nothing here is part of the installed package."""
