"""The loss is computed inside of what is wrapped, so that DistributedDataParallel copies a scalar."""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 1000)

    def forward(self, x, y):
        return F.cross_entropy(self.body(x), y)


def main():
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        # REFUTED MEM806 model
        model = DistributedDataParallel(Classifier(), find_unused_parameters=True, gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(10):
            model(torch.randn(32, 64), torch.randint(1000, (32,))).backward()
            optimizer.step()
            optimizer.zero_grad()
        dist.destroy_process_group()


main()
