"""Names of the files that commands write."""

PREDICTIONS = "predictions.json"
CONFIG, METRICS, BEST_FIGURES, REPORT = "config.toml", "metrics.jsonl", "metrics.json", "report.html"
