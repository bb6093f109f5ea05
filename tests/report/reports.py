"""Reports about texts that the tests hold, so that what is printed can stand beside what it is printed from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memlint.report import Report, renderer
from tests.check.tiny import RULES, check

ROOT = Path("/project")


def report(*texts: str | bytes, name: str = "x", suffix: str = ".py", unsafe_fixes: bool = False) -> Report:
    """The report about texts that stand at ``/project/x.py``, ``/project/x1.py`` and so on."""
    paths = [ROOT / f"{name}{number or ''}{suffix}" for number in range(len(texts))]
    results = [check(text, path=path) for text, path in zip(texts, paths, strict=True)]
    errors = [result.error for result in results if result.error]
    return Report(results, errors, RULES, ROOT, unsafe_fixes)


def rendered(output_format: str, *texts: str | bytes, color: bool = False, **options: Any) -> str:
    return renderer(output_format).render(report(*texts, **options), color=color)


def notebook(*cells: str) -> bytes:
    content = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": cell} for cell in cells]
    return json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
