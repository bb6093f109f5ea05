"""Each process gathers all weights of a sharded model on its device in order to save them: P bytes beside its shard."""
# ranks: 2

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard


def layers():
    return nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(8)])


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        x = torch.randn(8, 64)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


def wrapped():
    model = FullyShardedDataParallel(layers(), device_id=torch.device("cpu"))
    train(model)
    # CONFIRMED MEM810 device 8 * 64 * 64 * 4 at peak
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        return model.state_dict()


def with_options(model):
    options = StateDictOptions(full_state_dict=True)  # CONFIRMED MEM810 device 8 * 64 * 64 * 4 at peak
    return get_model_state_dict(model, options=options)


def one_by_one(model):
    state = model.state_dict()
    return {name: each.full_tensor() for name, each in state.items()}  # CONFIRMED MEM810 device 8 * 64 * 64 * 4 at peak


def main():
    dist.init_process_group("gloo")
    weights = [wrapped()]
    model = layers()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model)
    weights += [with_options(model), one_by_one(model)]
    print(*(sum(each.nbytes for each in state.values()) for state in weights))
    dist.destroy_process_group()


main()
