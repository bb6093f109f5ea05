from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair

PLAIN = """class F(Function):
    def forward(ctx, x):
        y = x.exp()
        ctx.y = y
        return y

    def backward(context, grad):
        {body}
"""
TARGETS: dict[str, str | tuple[str, ...]] = {"statement": "ctx.y = y", "backward": "def backward", "reads": "context.y"}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        pytest.param(
            "return grad * context.y",
            "(y,) = context.saved_tensors\n        return grad * y",
            id="above-the-first-statement",
        ),
        pytest.param(
            "'''Doc.'''\n        return context.y",
            "'''Doc.'''\n        (y,) = context.saved_tensors\n        return y",
            id="below-the-docstring",
        ),
        pytest.param("return context.y; pass", "(y,) = context.saved_tensors\n        return y; pass", id="semicolon"),
    ],
)
def test_saves_and_unpacks_it(repair: Repair, body: str, after: str) -> None:
    expected = PLAIN.replace("ctx.y = y", "ctx.save_for_backward(y)").format(body=after)
    assert repair(PLAIN.format(body=body), dict(TARGETS), name="y") == expected


SAVING = """class F(Function):
    def forward(ctx, x, w):
        ctx.save_for_backward({saved})
        ctx.y = x * w  # kept
        return w

    def backward(context, grad):
        {names} = context.saved_tensors
        return context.y + context.y
"""


@pytest.mark.parametrize(
    ("saved", "names", "all_saved", "all_names"),
    [
        pytest.param("x, w", "x, w", "x, w, x * w", "x, w, y", id="two"),
        pytest.param("x,", "x,", "x, x * w,", "x, y,", id="one"),
        pytest.param("x", "(x,)", "x, x * w", "(x, y,)", id="parentheses"),
        pytest.param("x", "[x]", "x, x * w", "[x, y]", id="list"),
    ],
)
def test_comes_behind_what_is_saved_already(
    repair: Repair, saved: str, names: str, all_saved: str, all_names: str
) -> None:
    targets: dict[str, str | tuple[str, ...]] = {
        "statement": "ctx.y = x * w",
        "backward": "def backward",
        "reads": "context.y",
        "call": f"ctx.save_for_backward({saved})",
        "unpacking": f"{names} = context.saved_tensors",
    }
    after = repair(SAVING.format(saved=saved, names=names), targets, name="y")
    assert f"save_for_backward({all_saved})" in after
    assert f"{all_names} = context.saved_tensors" in after
    assert "ctx.y" not in after


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("ctx.y = ctx.z = y", "several names"),
        ("ctx.y = y, x", "not one tensor"),
        ("ctx.y = (\n            y  # comment\n        )", "comment"),
        ("y = y", "no attribute"),
        ("ctx.y = context.y", "reads the attribute"),
    ],
)
def test_refuses_what_is_no_simple_assignment(repair: Repair, assignment: str, reason: str) -> None:
    program = PLAIN.replace("ctx.y = y", assignment).format(body="return context.y")
    with pytest.raises(CannotFix, match=reason):
        repair(program, TARGETS | {"statement": assignment}, name="y")


def test_refuses_a_backward_without_context(repair: Repair) -> None:
    program = PLAIN.replace("backward(context, grad)", "backward()").format(body="return context.y")
    with pytest.raises(CannotFix, match="takes no context"):
        repair(program, dict(TARGETS), name="y")
