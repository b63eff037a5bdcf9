"""What the commands show: tables, progress and summaries. Besides `chat`, the only package that uses rich."""
