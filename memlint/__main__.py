"""``python -m memlint`` is the command ``memlint``."""

from memlint.cli import main

if __name__ == "__main__":
    main()
