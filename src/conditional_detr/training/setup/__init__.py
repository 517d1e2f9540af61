"""Settings, data checks and initial weights: everything that is decided before the first step."""
