"""How much memory cuDNN keeps of recurrent layers."""

from __future__ import annotations

import pytest

recurrent = pytest.importorskip("memlint.capacity.simulate.child.recurrent", exc_type=ImportError)


@pytest.mark.parametrize(("operator", "measured"), [("lstm", 736_000_000), ("gru", 864_000_000)])
def test_the_reserve_is_the_one_that_cudnn_was_seen_to_ask_for(operator: str, measured: int) -> None:
    # https://github.com/pytorch/pytorch/issues/2895: four layers of 320 features.
    layers = recurrent.Layers(recurrent.KEPT[operator], 4, 1, train=True, batch_first=False)
    assert layers.reserve(25_000, 320) * 4 == measured


def test_nothing_is_kept_for_evaluation() -> None:
    assert recurrent.Layers(5, 2, 2, train=False, batch_first=True).reserve(100, 64) == 0
