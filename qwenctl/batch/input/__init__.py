"""The records of a batch: lines of JSON, JSONL, CSV or text, validated before anything runs."""
