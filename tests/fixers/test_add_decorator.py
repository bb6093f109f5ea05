from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("def f(): pass\n", "@torch.no_grad()\ndef f(): pass\n", id="plain"),
        pytest.param(
            "class A:\n    @staticmethod\n    # why\n    async def f():\n        pass\n",
            "class A:\n    @staticmethod\n    # why\n    @torch.no_grad()\n    async def f():\n        pass\n",
            id="below-other-decorators",
        ),
        pytest.param("# about f\r\ndef f(): pass\r\n", "# about f\r\n@torch.no_grad()\r\ndef f(): pass\r\n", id="crlf"),
    ],
)
def test_decorates(repair: Repair, before: str, after: str) -> None:
    name = "async def f" if "async" in before else "def f"
    assert repair(before, {"function": name}, code="torch.no_grad()") == after


def test_not_twice(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="already"):
        repair("@torch.no_grad()\ndef f(): pass\n", {"function": "def f"}, code="torch.no_grad()")


def test_imports_what_it_needs(repair: Repair) -> None:
    after = repair("import os\ndef f(): pass\n", {"function": "def f"}, code="torch.no_grad()", import_="torch")
    assert after == "import os\nimport torch\n@torch.no_grad()\ndef f(): pass\n"
