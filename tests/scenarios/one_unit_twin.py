"""Each layer is a unit of FSDP of its own: the parameters of one are gathered at a time."""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def main():
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(8)])
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)  # REFUTED MEM809
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(8):
            x = torch.randn(8, 64)
            F.mse_loss(model(x), x).backward()
            optimizer.step()
            optimizer.zero_grad()
        dist.destroy_process_group()


main()
