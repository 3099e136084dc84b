"""What a reader sees: tables on the console, one page per run."""
