"""Names of a run folder's files."""

CONFIG, METRICS, BEST_FIGURES, REPORT = "config.toml", "metrics.jsonl", "metrics.json", "report.html"
