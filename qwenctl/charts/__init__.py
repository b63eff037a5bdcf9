"""Charts of benchmarks, batches and placement plans, as SVG."""
