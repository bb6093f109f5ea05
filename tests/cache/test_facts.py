"""Whether a search for callers finds the same files after a change: the quick look says what the thorough one says."""

from __future__ import annotations

from itertools import combinations, product

from memlint.cache.facts import Comparison, Facts

LINES = ("import a", "from b import f", "from b import *", "f()", "x.f()", "a.C()", "class D(C): pass", "C.__init__(x)")
CALLED = tuple(product(("a", "b.a"), (None, "C", "D"), ("f", "__init__")))


def test_a_name_that_is_not_touched_has_the_same_callers() -> None:
    path = "/project/m.py"
    answers = set()
    for lines, added in product((*combinations(LINES, 1), *combinations(LINES, 2)), LINES):
        before, after = "\n".join(lines).encode(), "\n".join((*lines, added)).encode()
        comparison = Comparison({path: (before, after)})
        for called in CALLED:
            said, says = (Facts.of(path, data).about_callers(*called) for data in (before, after))
            same = comparison.same_callers(("/project/a.py", *called))
            assert same == (said == says), (lines, added, called)
            answers.add(same)
    assert answers == {True, False}
