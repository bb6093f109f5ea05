"""Access paths: places that a later read in the same function finds again (``total``, ``self.total``, ``d['x']``)."""

from __future__ import annotations

import libcst as cst


def path_key(node: cst.CSTNode) -> str | None:
    """The key of a name, of attributes of a name, or of items with a constant index; None for anything else."""
    # Instances of abstract classes take long to tell from others, and this is asked of every target.
    if type(node) is cst.Name:
        return node.value
    if type(node) is cst.Attribute:
        base = path_key(node.value)
        return f"{base}.{node.attr.value}" if base is not None else None
    if type(node) is cst.Subscript and len(node.slice) == 1:
        part = node.slice[0].slice
        if isinstance(part, cst.Index):
            index = _index_text(part.value)
            base = path_key(node.value)
            return f"{base}[{index}]" if base is not None and index is not None else None
    return None


def dotted_name(node: cst.CSTNode) -> str:
    """A name, or attributes of a name; nothing for anything else."""
    key = path_key(node)
    return key if key is not None and "[" not in key else ""


def _index_text(node: cst.BaseExpression) -> str | None:
    """An index that means the same whenever it is evaluated."""
    if isinstance(node, cst.SimpleString):
        return repr(node.evaluated_value)
    return node.value if isinstance(node, cst.Integer) else None


def stored_paths(function: cst.FunctionDef | cst.Lambda | cst.Module) -> frozenset[str]:
    """Attribute and item paths that a body stores to, nested functions left out."""
    found: set[str] = set()
    if not isinstance(function, cst.Lambda):
        body = function.body
        _collect(body.body if isinstance(body, cst.BaseSuite) else body, found)
    return frozenset(found)


def _collect(statements: object, found: set[str]) -> None:
    for statement in statements:  # type: ignore[attr-defined]
        kind = type(statement)
        if kind is cst.SimpleStatementLine:
            _collect(statement.body, found)
        elif kind is cst.Assign:
            for target in statement.targets:
                _target(target.target, found)
        elif kind is cst.AugAssign or (kind is cst.AnnAssign and statement.value is not None):
            _target(statement.target, found)
        elif kind is cst.Match:
            for case in statement.cases:
                _collect(case.body.body, found)
        elif kind in _BLOCKS:
            _block(statement, found)


def _block(statement: cst.CSTNode, found: set[str]) -> None:
    if isinstance(statement, cst.For):
        _target(statement.target, found)
    if isinstance(statement, cst.With):
        for item in statement.items:
            if item.asname is not None:
                _target(item.asname.name, found)
    _collect(statement.body.body, found)  # type: ignore[attr-defined]
    for name in ("orelse", "finalbody"):
        other = getattr(statement, name, None)
        if other is not None:
            _block(other, found)
    for handler in getattr(statement, "handlers", ()):
        _collect(handler.body.body, found)


def _target(node: cst.CSTNode, found: set[str]) -> None:
    if type(node) is cst.Attribute or type(node) is cst.Subscript:
        key = path_key(node)
        if key is not None:
            found.add(key)
    elif type(node) is cst.Tuple or type(node) is cst.List:
        for element in node.elements:
            _target(element.value, found)


_BLOCKS = frozenset({cst.If, cst.Else, cst.For, cst.While, cst.With, cst.Try, cst.TryStar, cst.Finally})
