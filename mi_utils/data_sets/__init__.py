"""The real data sets that profiles read and that do not ship: `registry`; whether they lie as they should: `checks`."""
