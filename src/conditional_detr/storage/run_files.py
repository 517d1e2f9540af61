"""Names of the files in a run folder."""

CONFIG, METRICS, BEST_FIGURES, REPORT = "config.toml", "metrics.jsonl", "metrics.json", "report.html"
