"""The gradients are views of the buckets: nothing is allocated beside those."""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main():
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        net = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
        model = DistributedDataParallel(net, gradient_as_bucket_view=True)  # REFUTED MEM805 model
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(10):
            loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        dist.destroy_process_group()


main()
