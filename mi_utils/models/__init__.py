"""Networks only: no training, no files, no randomness beyond their initial weights."""
