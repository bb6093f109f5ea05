"""Questions about the program, answered once for each subject and safe against going in circles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Region, Value

if TYPE_CHECKING:
    from memlint.model.project import Project

Subject = TypeVar("Subject", bound="Value | Region | Function | Class | Module")
Answer = TypeVar("Answer")
Rest = ParamSpec("Rest")


def project_of(subject: Value | Region | Function | Class | Module) -> Project:
    """The project that ``subject`` belongs to."""
    match subject:
        case Value():
            return subject.region.function.module.project
        case Region():
            return subject.function.module.project
        case Function() | Class():
            return subject.module.project
        case Module():
            return subject.project


def query(
    on_cycle: Any,
) -> Callable[[Callable[Concatenate[Subject, Rest], Answer]], Callable[Concatenate[Subject, Rest], Answer]]:
    """Remembers the answers of a function of one value, region, function, class or module.

    ``on_cycle`` is what the function answers while it is itself being asked the same question. An answer that rests on
    such a preliminary one is kept only until the question that it belongs to is answered, so that what is remembered
    does not depend on the order of the questions.
    """

    def decorate(ask: Callable[Concatenate[Subject, Rest], Answer]) -> Callable[Concatenate[Subject, Rest], Answer]:
        @wraps(ask)
        def answer(subject: Subject, /, *rest: Rest.args, **named: Rest.kwargs) -> Answer:
            memo = project_of(subject).memo
            key = (ask, id(subject), *rest)
            known = memo.answers.get(key)
            if known is not None:
                return known[1]  # type: ignore[no-any-return]
            depth = memo.asking.get(key)
            if depth is not None:
                memo.rests_on = min(memo.rests_on, depth)
                return on_cycle  # type: ignore[no-any-return]
            preliminary = memo.preliminary.get(key)
            if preliminary is not None:
                memo.rests_on = min(memo.rests_on, preliminary[2])
                return preliminary[1]  # type: ignore[no-any-return]
            return memo.ask(key, subject, lambda: ask(subject, *rest, **named))  # type: ignore[no-any-return]

        return answer

    return decorate


class Memo:
    """The answers that are known, and the questions that are being asked."""

    def __init__(self) -> None:
        self.answers: dict[Any, tuple[Any, Any]] = {}
        self.asking: dict[Any, int] = {}
        self.preliminary: dict[Any, tuple[Any, Any, int]] = {}
        self.rests_on = sys.maxsize
        """Depth of the outermost open question that the answer being worked out rests on."""

    def ask(self, key: Any, subject: object, find: Callable[[], Any]) -> Any:
        """Works out an answer, and keeps it (with its subject, whose id is in the key) if it is final."""
        depth = len(self.asking)
        outer = self.rests_on
        before = len(self.preliminary)
        self.rests_on = sys.maxsize
        self.asking[key] = depth
        try:
            found = find()
        finally:
            del self.asking[key]
            rests_on = self.rests_on
            self.rests_on = min(outer, rests_on) if rests_on < depth else outer
        if rests_on >= depth:
            self.answers[key] = (subject, found)
            while len(self.preliminary) > before:
                self.preliminary.popitem()
        else:
            self.preliminary[key] = (subject, found, rests_on)
        return found

    def clear(self) -> None:
        """Forgets everything."""
        self.answers.clear()
        self.preliminary.clear()
