"""Names of the files that commands write."""

PREDICTIONS, RENAMED = "predictions.json", "renamed.json"
FINGERPRINT = "fingerprint.json"
CONFIG, METRICS, BEST_FIGURES, REPORT = "config.toml", "metrics.jsonl", "metrics.json", "report.html"
