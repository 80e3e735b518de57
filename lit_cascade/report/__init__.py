"""What a person reads: tables, files and pictures."""
