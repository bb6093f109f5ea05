"""Makes sure that what an inserted text names is imported.

Fixers that insert code take an option ``import``: what stands behind the word ``import``, such as ``torch`` or
``torch.nn.functional as F``. If the file does not bind that name by such an import, one is added below the last import
of the module that stands above the fixed code, or below the module's docstring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers import _statements
from memlint.fixers._asked import option
from memlint.source import Source, Statement


def import_edits(fix: Fix, source: Source, node: libcst.CSTNode) -> list[Edit]:
    """The edit that adds the import that the option ``import`` names, if ``node`` cannot see it; else none.

    Raises :class:`~memlint.findings.CannotFix` if the file uses the name for something else.
    """
    if "import" not in fix.options:
        return []
    module, _, alias = option(fix, "import").partition(" as ")
    name = alias or module.partition(".")[0]
    scopes: list[Sequence[libcst.CSTNode]] = [source.tree.body]
    scopes += [each.body.body for each in source.ancestors(node) if isinstance(each, libcst.FunctionDef)]
    meanings = {meaning for scope in scopes for meaning in _meanings(scope, name)}
    # Any submodule's import binds the top-level package as well.
    wanted = module if alias else name
    if wanted in meanings:
        return []
    if meanings:
        raise CannotFix(f"the name {name} means something else in this file")
    return [_addition(source, node, f"import {module} as {alias}" if alias else f"import {module}")]


def _meanings(body: Sequence[libcst.CSTNode], name: str) -> Iterator[str]:
    """What ``name`` is bound to in a block: dotted names of modules, ``""`` for what is no module."""
    for statement in body:
        match statement:
            case libcst.Import(names=aliases):
                yield from (_module(alias) for alias in aliases if _bound(alias) == name)
            case libcst.ImportFrom(names=aliases, module=origin) if not isinstance(aliases, libcst.ImportStar):
                head = f"{_dotted(origin)}." if origin and not statement.relative else "."
                yield from (f"{head}{_dotted(alias.name)}" for alias in aliases if _bound(alias) == name)
            case libcst.FunctionDef(name=libcst.Name(value=bound)) | libcst.ClassDef(name=libcst.Name(value=bound)):
                yield from [""] if bound == name else []
            case libcst.Assign(targets=targets):
                bare = (target.target for target in targets if isinstance(target.target, libcst.Name))
                yield from ("" for each in bare if each.value == name)
            case libcst.If(test=libcst.Name("TYPE_CHECKING") | libcst.Attribute(attr=libcst.Name("TYPE_CHECKING"))):
                pass  # What is imported for the type checker is not there at run time.
            case libcst.BaseCompoundStatement() | libcst.SimpleStatementLine() | libcst.BaseSuite():
                yield from _meanings(statement.children, name)
            case libcst.Else() | libcst.ExceptHandler() | libcst.Finally():
                yield from _meanings(statement.children, name)


def _is_head(node: libcst.CSTNode) -> bool:
    """Whether a row of the module is an import or the docstring."""
    match node:
        case libcst.SimpleStatementLine(body=[first, *_]):
            return isinstance(first, (libcst.Import, libcst.ImportFrom)) or _statements.is_docstring(first)
    return False


def _bound(alias: libcst.ImportAlias) -> str:
    return alias.evaluated_alias or alias.evaluated_name.partition(".")[0]


def _module(alias: libcst.ImportAlias) -> str:
    """The module that an ``import`` statement binds: without ``as``, the top-level package."""
    return alias.evaluated_name if alias.asname else alias.evaluated_name.partition(".")[0]


def _dotted(node: libcst.Name | libcst.Attribute) -> str:
    return libcst.ImportAlias(node).evaluated_name


def _addition(source: Source, node: libcst.CSTNode, code: str) -> Edit:
    """The edit that inserts an import before ``node``, as late as the imports that are there.

    What a script sets up before its first import of a library, and what a notebook installs, stays in front.
    """
    start = source.span(node).start
    above = [each for each in source.tree.body if _is_head(each) and source.span(each).start < start]
    if above:
        at = source.row_end(source.end_location(above[-1]).row)
        return source.edit(at, at, source.newline(at) + code)
    first = source.tree.body[0]
    assert isinstance(first, Statement)
    at = source.row_starts[_statements.comment_row(source, first) - 1]
    return source.edit(at, at, code + source.newline(at) * 2)
