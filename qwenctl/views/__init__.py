"""What the commands show: tables, progress lines and summaries. The only package besides `chat` that draws."""
