"""The benchmarks of `anabranch bench`: every figure a ratio to something measured beside it in the same run."""
