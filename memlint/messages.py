"""What a command tells its user when something is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable

CLEAN = 0
"""Exit code: nothing found."""
FOUND = 1
"""Exit code: errors or warnings found, or, with ``--diff``, something to fix."""
FAILED = 2
"""Exit code: memlint could not do its work, or not all of it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
TERMINATED = 143
"""Exit code after SIGTERM, as shells have it."""


class UserError(Exception):
    """Something that the user can mend; ``str(error)`` says in one line what, where, and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "..."?`` with the known name nearest to ``word``, or nothing if none is near."""
    folded = {name.casefold(): name for name in known}
    import difflib  # only who is wrong waits for it

    nearest = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f'; did you mean "{folded[nearest[0]]}"?' if nearest else ""
