from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "try:\n    a()\nexcept E:\n    b()\nc()\n",
            "failed = False\ntry:\n    a()\nexcept E:\n    failed = True\nif failed:\n    b()\nc()\n",
            id="alone",
        ),
        pytest.param(
            "def f():\n  try:\n    a()\n  except E as e:\n    log(e)\n    b()  # again\n    return 1\n",
            "def f():\n  failed = False\n  try:\n    a()\n  except E as e:\n    log(e)\n    failed = True\n"
            "  if failed:\n    b()  # again\n    return 1\n",
            id="with-what-follows",
        ),
        pytest.param(
            "try:\n    a()\nexcept E as e:\n    if x:\n        c()\n        b()\n    elif y:\n        raise\n"
            "else:\n    d()\n",
            "failed = False\ntry:\n    a()\nexcept E as e:\n    if x:\n        c()\n        failed = True\n"
            "    elif y:\n        raise\nelse:\n    d()\nif failed:\n    b()\n",
            id="out-of-a-branch",
        ),
        pytest.param(
            "try:\n    a()\nexcept E:\n    for x in y:\n        # each\n        b()\n",
            "failed = False\ntry:\n    a()\nexcept E:\n    failed = True\nif failed:\n    for x in y:\n        # each\n"
            "        b()\n",
            id="with-its-loop",
        ),
        pytest.param(
            "failed = 0\ntry:\n    a()\nexcept E:\n    b()\n",
            "failed = 0\nfailed_2 = False\ntry:\n    a()\nexcept E:\n    failed_2 = True\nif failed_2:\n    b()\n",
            id="another-name",
        ),
    ],
)
def test_moves_it_behind_the_try(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": "b()"}, name="failed") == after


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("b()\n", "no except clause"),
        ("try:\n    b()\nexcept E:\n    c()\n", "no except clause"),
        ("try:\n    a()\nexcept E:\n    def f():\n        b()\n", "no except clause"),
        ("try:\n    a()\nexcept E:\n    b()\nfinally:\n    c()\n", "finally"),
        ("try:\n    a()\nexcept E: b()\n", "shares its row"),
        ("try:\n    a()\nexcept E:\n    c(); b()\n", "shares its row"),
        ("try:\n    a()\nexcept E:\n    if x:\n        b()\n    c()\n", "run before"),
        ("try:\n    a()\nexcept E as e:\n    b()\n    log(e)\n", "needs the exception"),
        ("try:\n    a()\nexcept E:\n    b()\n    raise\n", "needs the exception"),
    ],
)
def test_refuses(repair: Repair, before: str, reason: str) -> None:
    with pytest.raises(CannotFix, match=reason):
        repair(before, {"statement": "b()"}, name="failed")
