"""Finds the packages. Everything else about the distribution stands in pyproject.toml.

``rules/`` and ``fixers/`` stand at the top of the repository and are installed as ``memlint.rules`` and
``memlint.fixers``; a static list would have to name every family folder in them.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["memlint", "memlint.*"]),
        "memlint.rules",
        *(f"memlint.rules.{family}" for family in find_packages("rules")),
        "memlint.fixers",
        *(f"memlint.fixers.{family}" for family in find_packages("fixers")),
    ]
)
