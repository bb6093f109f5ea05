from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        pytest.param("x = float(loss)\n", "float(loss)", "loss.item()", "x = loss.item()\n", id="primary"),
        pytest.param("x = a * b\n", "b", "c + d", "x = a * (c + d)\n", id="binds-looser-than-its-place"),
        pytest.param("x = (a)\n", "(a)", "c + d", "x = (c + d)\n", id="own-parentheses-stay"),
        pytest.param("f(a, k=b)\n", "b", "c if d else e", "f(a, k=c if d else e)\n", id="argument"),
        pytest.param("f(a)\n", "a", "(y := 1)", "f((y := 1))\n", id="walrus"),
        pytest.param("f(a, b)\n", "a", "(x for x in y)", "f((x for x in y), b)\n", id="generator"),
        pytest.param("x.y\n", "x", "await z", "(await z).y\n", id="attribute-of"),
        pytest.param("return_ = a\n", "a", "b, c", "return_ = (b, c)\n", id="tuple"),
        pytest.param("a[i]\n", "i", "lambda: 0", "a[lambda: 0]\n", id="index"),
        pytest.param("f(a,  # first\n  b)\n", "b", "c", "f(a,  # first\n  c)\n", id="comment-beside"),
    ],
)
def test_replaces_it(repair: Repair, before: str, old: str, new: str, after: str) -> None:
    assert repair(before, {"expression": old}, code=new) == after


def test_a_comment_inside_is_not_lost(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="comment"):
        repair("f(a +  # important\n  b)\n", {"expression": "a +  # important\n  b"}, code="c")


def test_what_is_no_expression_is_an_error_of_the_rule(repair: Repair) -> None:
    with pytest.raises(ValueError, match="not an expression"):
        repair("f(a)\n", {"expression": "a"}, code="c c")


@pytest.mark.parametrize(
    ("before", "import_", "after"),
    [
        pytest.param("x = a\n", "torch", "import torch\n\nx = torch.y\n", id="missing"),
        pytest.param("import torch\nx = a\n", "torch", "import torch\nx = torch.y\n", id="present"),
        pytest.param("import torch.nn\nx = a\n", "torch", "import torch.nn\nx = torch.y\n", id="by-a-submodule"),
        pytest.param(
            "import torch.nn as nn\nx = a\n",
            "torch",
            "import torch.nn as nn\nimport torch\nx = torch.y\n",
            id="submodule-under-another-name",
        ),
        pytest.param(
            '"""Doc."""\nfrom __future__ import annotations\n\nimport os\n\nx = a\n',
            "torch",
            '"""Doc."""\nfrom __future__ import annotations\n\nimport os\nimport torch\n\nx = torch.y\n',
            id="below-other-imports",
        ),
        pytest.param(
            '"""Doc."""\nfrom __future__ import annotations\n\nx = a\n',
            "torch",
            '"""Doc."""\nfrom __future__ import annotations\nimport torch\n\nx = torch.y\n',
            id="below-future",
        ),
        pytest.param(
            "import os\nos.environ['X'] = '1'\nimport lib\nx = a\nimport late\n",
            "torch",
            "import os\nos.environ['X'] = '1'\nimport lib\nimport torch\nx = torch.y\nimport late\n",
            id="below-what-is-set-up-first",
        ),
        pytest.param(
            "#!/usr/bin/env python\n# Licence: MIT\nx = a\n",
            "torch",
            "#!/usr/bin/env python\n# Licence: MIT\nimport torch\n\nx = torch.y\n",
            id="below-the-head-comment",
        ),
        pytest.param(
            "try:\n    import torch\nexcept ImportError:\n    torch = None\nx = a\n",
            "torch",
            "try:\n    import torch\nexcept ImportError:\n    torch = None\nx = torch.y\n",
            id="inside-try",
        ),
        pytest.param(
            "def f():\n    import torch\n    x = a\n",
            "torch",
            "def f():\n    import torch\n    x = torch.y\n",
            id="in-the-function",
        ),
        pytest.param(
            "def g():\n    import torch\ndef f():\n    x = a\n",
            "torch",
            "import torch\n\ndef g():\n    import torch\ndef f():\n    x = torch.y\n",
            id="in-another-function",
        ),
        pytest.param(
            "if TYPE_CHECKING:\n    import torch\nx = a\n",
            "torch",
            "import torch\n\nif TYPE_CHECKING:\n    import torch\nx = torch.y\n",
            id="only-for-the-type-checker",
        ),
        pytest.param(
            "from torch.nn import functional as F\nx = a\n",
            "torch.nn.functional as F",
            "from torch.nn import functional as F\nx = torch.y\n",
            id="same-module-by-from",
        ),
        pytest.param(
            "x = a\n",
            "torch.nn.functional as F",
            "import torch.nn.functional as F\n\nx = torch.y\n",
            id="under-an-alias",
        ),
        pytest.param('"""Doc."""\r\nx = a', "torch", '"""Doc."""\r\nimport torch\r\nx = torch.y', id="crlf"),
    ],
)
def test_imports_what_it_needs(repair: Repair, before: str, import_: str, after: str) -> None:
    assert repair(before, {"expression": "a"}, code="torch.y", import_=import_) == after


@pytest.mark.parametrize(
    "binding",
    ["import jax.numpy as F", "from torchvision.transforms import functional as F", "F = object()", "def F(): ..."],
)
def test_a_name_with_another_meaning_is_not_taken(repair: Repair, binding: str) -> None:
    with pytest.raises(CannotFix, match="means something else"):
        repair(f"{binding}\nx = a\n", {"expression": "a"}, code="F.y", import_="torch.nn.functional as F")
