"""Compares trees that are built from Python's own parser with those of libcst, node by node.

    python bench/same_trees.py DIR...

Every Python file below the folders is read in both ways, and the bare tree is given its layout. What is printed: how
many are the same, how many are left to libcst (``match``, and what Python refuses), and each one that differs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import libcst

from memlint.bare_trees.building import NoBareTree, bare_tree
from memlint.bare_trees.layout import LayoutError, lay_out
from memlint.parsing import deep_recursion, parse
from memlint.source import Source, SourceError


def verdict(path: Path) -> str:
    """What comparing both trees of a file says."""
    try:
        text = Source.decode(path.read_bytes()).text
        full = parse(text)
    except (SourceError, libcst.ParserSyntaxError):
        return "unreadable"
    try:
        bare = bare_tree(text)
        lay_out(bare, full)
    except NoBareTree:
        return "left to libcst"
    except LayoutError as error:
        return f"differs ({error})"
    return "same" if bare.code == full.code else "differs (in its text)"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Bare trees beside those of libcst.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    found: Counter[str] = Counter()
    for folder in parser.parse_args().folders:
        for path in sorted(folder.rglob("*.py")):
            with deep_recursion():
                said = verdict(path)
            if said.startswith("differs"):
                print(f"{path}: {said}")
            found[said.partition(" (")[0]] += 1
    print(", ".join(f"{count:,} {said}" for said, count in found.most_common()))


if __name__ == "__main__":
    main()
