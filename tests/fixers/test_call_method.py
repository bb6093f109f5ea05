from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "expression", "after"),
    [
        pytest.param("total += loss\n", "loss", "total += loss.detach()\n", id="name"),
        pytest.param("x = a + b\n", "a + b", "x = (a + b).detach()\n", id="operator"),
        pytest.param("x = (a + b)\n", "(a + b)", "x = (a + b).detach()\n", id="own-parentheses-stay"),
        pytest.param("x = -a\n", "-a", "x = (-a).detach()\n", id="unary"),
        pytest.param("x = a[0] * w\n", "a[0]", "x = a[0].detach() * w\n", id="left-operand"),
        pytest.param("x = await step()\n", "await step()", "x = (await step()).detach()\n", id="await"),
        pytest.param("f(lambda: x + 1)\n", "x + 1", "f(lambda: (x + 1).detach())\n", id="body-of-lambda"),
        pytest.param("f = lambda: x\n", "lambda: x", "f = (lambda: x).detach()\n", id="lambda"),
        pytest.param("x = a if c else b\n", "a if c else b", "x = (a if c else b).detach()\n", id="conditional"),
        pytest.param("f(y := g(x))\n", "y := g(x)", "f((y := g(x)).detach())\n", id="walrus"),
        pytest.param("log(loss=a * b, n=1)\n", "a * b", "log(loss=(a * b).detach(), n=1)\n", id="keyword-argument"),
        pytest.param("f(*outs)\n", "outs", "f(*outs.detach())\n", id="value-of-starred-argument"),
        pytest.param("xs = [*outs, o]\n", "o", "xs = [*outs, o.detach()]\n", id="beside-starred"),
        pytest.param("preds.append(out.cpu())\n", "out", "preds.append(out.detach().cpu())\n", id="before-cpu"),
        pytest.param("f(t for t in ts)\n", "t for t in ts", "f((t for t in ts).detach())\n", id="bare-generator"),
        pytest.param("x = 1\n", "1", "x = (1).detach()\n", id="integer"),
        pytest.param(
            "x = f(\n    a  # first\n    + b,  # second\n)\n",
            "a  # first\n    + b",
            "x = f(\n    (a  # first\n    + b).detach(),  # second\n)\n",
            id="comments-inside",
        ),
        pytest.param("x = a \\\n    .b\n", "a \\\n    .b", "x = a \\\n    .b.detach()\n", id="continuation"),
    ],
)
def test_appends_the_call(repair: Repair, before: str, expression: str, after: str) -> None:
    assert repair(before, {"expression": expression}, method="detach") == after


def test_several_expressions(repair: Repair) -> None:
    after = repair("log({'a': out, 'b': y * 2})\n", {"expression": ("out", "y * 2")}, method="detach")
    assert after == "log({'a': out.detach(), 'b': (y * 2).detach()})\n"


def test_an_expression_inside_another(repair: Repair) -> None:
    after = repair("x = -a + -b\n", {"expression": ("-a", "-a + -b", "-b")}, method="cpu")
    assert after == "x = ((-a).cpu() + (-b).cpu()).cpu()\n"


def test_arguments(repair: Repair) -> None:
    after = repair("x = y\n", {"expression": "y"}, method="to", arguments='"cpu", copy=True')
    assert after == 'x = y.to("cpu", copy=True)\n'


def test_a_starred_element_has_no_value_to_call_it_on(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="starred"):
        repair("xs = [*outs]\n", {"expression": "*outs"}, method="detach")


def test_an_unknown_option_is_an_error_of_the_rule(repair: Repair) -> None:
    with pytest.raises(ValueError, match="knows no option 'methods'"):
        repair("x = y\n", {"expression": "y"}, methods="cpu")
