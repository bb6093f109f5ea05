"""The rules, one file each, in family folders. Installed as ``memlint.rules``."""
