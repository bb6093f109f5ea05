"""The fixers, one file for each kind of edit. Installed as ``memlint.fixers``."""
