"""What one rank of several holds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from memlint.capacity.simulate.changes import CHANGES, what_if
from memlint.capacity.simulate.run import Prediction, simulate
from memlint.capacity.simulate.settings import Settings

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="runs scripts with torch"),
    pytest.mark.slow,
]

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
def block():
    return torch.nn.Sequential(torch.nn.Linear(1024, 1024, bias=False), torch.nn.ReLU())
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(block() for _ in range(8))
    def forward(self, x):
        for each in self.blocks:
            x = each(x)
        return x
model = Model()
how = sys.argv[1]
if how != "alone":
    dist.init_process_group("nccl")
    assert dist.get_world_size() == int(os.environ["WORLD_SIZE"]) == torch.cuda.device_count() == 4
if how in ("alone", "ddp"):
    model.cuda()
if how == "ddp":
    model = DistributedDataParallel(model, device_ids=[0])
elif how == "fsdp":
    from torch.distributed.fsdp import FullyShardedDataParallel
    model = FullyShardedDataParallel(model, auto_wrap_policy=object(), device_id=0)
elif how == "fully_shard":
    from torch.distributed.fsdp import fully_shard
    for each in model.blocks:
        fully_shard(each)
    fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    loss = model(torch.randn(16, 1024, device="cuda")).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
MIB = 1 << 20
WEIGHTS = 8 * 1024 * 1024 * 4


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, "utf-8")
    return str(path)


def run(script: str, how: str) -> Prediction:
    prediction = simulate(script, (how,), Settings(count=4, steps=2, seconds=120.0))
    assert (prediction.outcome.ending, prediction.outcome.error) == ("stopped", "")
    return prediction


@pytest.mark.parametrize("how", ["fsdp", "fully_shard"])
def test_a_rank_keeps_its_part_of_everything(script: str, how: str) -> None:
    prediction = run(script, how)
    sizes = prediction.by_category()
    assert sizes["optimizer_state"] == 2 * WEIGHTS / 4
    # Its parts, and one block whole with the buffer that it is gathered into.
    assert sizes["parameter"] <= WEIGHTS / 4 + WEIGHTS / 8
    assert WEIGHTS < prediction.peak_allocated < 2 * WEIGHTS + 17 * MIB


def test_replicas_hold_their_gradients_twice(script: str) -> None:
    assert run(script, "ddp").by_category()["gradient"] == 2 * WEIGHTS


def test_sharding_and_offloading_are_what_ifs(script: str) -> None:
    changes = {change.word: change for change in CHANGES}
    settings = Settings(steps=2, seconds=120.0)
    sharded = what_if(script, ("alone",), settings, [changes["fsdp=8"]])
    assert sharded.is_applicable
    assert sharded.prediction.by_category()["optimizer_state"] == 2 * WEIGHTS / 8
    # The model as it was before it was sharded does not count.
    assert sharded.prediction.peak_allocated < WEIGHTS + 17 * MIB
    offloaded = what_if(script, ("alone",), settings, [changes["offload"]])
    assert offloaded.is_applicable
    assert "optimizer_state" not in offloaded.prediction.by_category()
