"""The base class of every rule in ``rules/``."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from memlint.findings import Claim, Confidence, Finding, Fix, Message, Related, Severity

if TYPE_CHECKING:
    import libcst

    from memlint.model.program import Program


class RuleFacts(NamedTuple):
    """What has to be known of a rule to turn it on and off; the rule itself loads the model of programs."""

    code: str
    default: bool

    @classmethod
    def of(cls, rule: Rule) -> RuleFacts:
        """The facts of a rule."""
        return cls(rule.code, rule.default)


class Rule(ABC):
    """One hazard: its documentation page (the docstring), its identity, its proof and its query.

    A concrete rule sets the class variables below and implements :meth:`check`. ``gate`` names identifiers: a file
    whose bytes hold none of them cannot have a finding of this rule and is not parsed for its sake.
    ``positive`` and ``negative`` are whole small programs; in the positive ones each line that must be reported
    ends in a comment ``# MEM101``, or ``# MEM101: 9`` to demand the 1-based column as well.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    gate: ClassVar[frozenset[str]]
    positive: ClassVar[tuple[str, ...]]
    negative: ClassVar[tuple[str, ...]]
    fixers: ClassVar[tuple[str, ...]] = ()
    """Names of the fixers that findings of this rule may ask for."""
    default: ClassVar[bool] = True
    """Whether the rule is on unless configured otherwise."""
    corrects: ClassVar[str] = ""
    """What its fix changes in the training, since that was wrong: a clause such as "each step uses ...". Empty for
    fixes that are to leave the numbers as they are."""

    @abstractmethod
    def check(self, program: Program) -> Iterator[Finding]:
        """Yields the findings in one file."""

    def finding(
        self,
        node: libcst.CSTNode,
        message: Message,
        *,
        holds: str,
        confidence: Confidence,
        severity: Severity | None = None,
        fixes: tuple[Fix, ...] = (),
        claim: Claim | None = None,
        related: tuple[Related, ...] = (),
    ) -> Finding:
        """A finding of this rule at ``node``; ``severity`` defaults to the rule's own."""
        return Finding(
            code=self.code,
            name=self.name,
            message=message,
            node=node,
            severity=severity or self.severity,
            confidence=confidence,
            holds=holds,
            fixes=fixes,
            claim=claim,
            related=related,
        )

    @classmethod
    def documentation(cls) -> str:
        """The rule's page in Markdown."""
        return inspect.cleandoc(cls.__doc__ or "")
