"""Each process saves its shard, or gathers one weight after the other for the first process to keep on the host.

On a CPU torch 2.13 frees a unit that it has just moved to the host, which is the same storage there, and fails at the
second kind of state dict; under verify it is copied, as from a GPU.
"""
# ranks: 2

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType, fully_shard


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
    # REFUTED MEM810
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
        shards = model.state_dict()
    config = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
    # REFUTED MEM810
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
        return shards, model.state_dict()


def with_options(model):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)  # REFUTED MEM810
    return get_model_state_dict(model, options=options)


def main():
    dist.init_process_group("gloo")
    shards, weights = wrapped()
    model = layers()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model)
    print(len(shards), len(weights), len(with_options(model)))
    dist.destroy_process_group()


main()
