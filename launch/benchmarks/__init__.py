"""The benchmarks of `launch.bench`, one file each: `run() -> rows`."""
