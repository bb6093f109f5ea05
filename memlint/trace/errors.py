"""The one exception that reading a trace raises."""

from __future__ import annotations


class TraceError(Exception):
    """A trace cannot be used; ``str(error)`` is one line that says what is wrong and, where it helps, what to do."""
