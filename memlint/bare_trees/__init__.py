"""Trees of libcst without layout, built from what Python's own parser finds, in a third of the time.

Analysis needs to know what a program says, and not how its text is laid out: whitespace, comments, parentheses,
commas and semicolons are two thirds of a tree's nodes, and few files ever have a finding to place in their text. A
bare tree has the nodes of libcst's tree with defaults for all layout; :func:`memlint.parsing.complete` gives it the
layout of the text by parsing it with libcst after all. Nodes stay the same objects.
"""
