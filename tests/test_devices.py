"""The table of GPUs."""

from __future__ import annotations

import pytest

from memlint.devices import UnknownDevice, device, devices


def test_a_device_is_found_by_any_of_its_names() -> None:
    assert device("rtx 3060") is device("RTX-3060") is device("NVIDIA GeForce RTX 3060")
    assert device("g5.12xlarge") is device("A10G")
    assert device("24GB").usable == 24 << 30
    assert device("a100-40") is device("A100-40GB")
    assert device("h100") is device("H100-80GB")
    assert len(devices()) >= 25
    assert all(each.source for each in devices())


def test_an_unknown_one_names_its_neighbours() -> None:
    with pytest.raises(UnknownDevice, match="A100-40GB"):
        device("A100")


def test_names_are_unique_and_sizes_plausible() -> None:
    names = [name.lower() for each in devices() for name in {each.key, each.name, *each.aliases}]
    assert len(names) == len(set(names))
    assert all(0.85 * each.memory <= each.usable <= each.memory for each in devices())
