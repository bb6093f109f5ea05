"""Questions about the program, answered once for each subject and safe against going in circles."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Region, Value

if TYPE_CHECKING:
    from memlint.model.project import Project

Subject = TypeVar("Subject", bound="Value | Region | Function | Class | Module")
Answer = TypeVar("Answer")


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


def query(on_cycle: Any) -> Callable[[Callable[[Subject], Answer]], Callable[[Subject], Answer]]:
    """Remembers the answers of a function of one value, region, function, class or module.

    ``on_cycle`` is what the function answers while it is itself being asked the same question.
    """

    def decorate(ask: Callable[[Subject], Answer]) -> Callable[[Subject], Answer]:
        @wraps(ask)
        def answer(subject: Subject) -> Answer:
            memo = project_of(subject).memo
            key = (ask, id(subject))
            known = memo.get(key)
            if known is None:
                memo[key] = (subject, on_cycle)
                try:
                    known = (subject, ask(subject))
                except RecursionError:
                    del memo[key]
                    raise
                memo[key] = known
            return known[1]  # type: ignore[no-any-return]

        return answer

    return decorate
