"""Entry points: flags, processes, reports and benchmarks. The top floor: it may import everything, nothing imports it."""
