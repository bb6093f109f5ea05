"""What the outputs of transformers hold beside what the script reads."""

from __future__ import annotations

from memlint.findings import Watch
from memlint.verify.child.reachable import reach

_ENDINGS = {
    Watch.KEY_VALUE_CACHE: ("past_key_values",),
    Watch.LAYER_OUTPUTS: ("hidden_states", "attentions"),
}
"""``decoder_hidden_states`` and ``cross_attentions`` are those of models with two halves."""


def by_product_bytes(watch: Watch, output: object) -> int | None:
    """Bytes of the parts of a model's output that ``watch`` is about; None for an output without names."""
    if not isinstance(output, dict):
        return None
    found = reach([value for name, value in dict.items(output) if name.endswith(_ENDINGS[watch])])
    return found.bytes_of(found.held)
