"""The training program in several files."""
