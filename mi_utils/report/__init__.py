"""From scores to what a reader sees: tables, figures, verdicts and where the numbers came from."""
