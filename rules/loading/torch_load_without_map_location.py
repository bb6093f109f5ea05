"""MEM801."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.aliases import qualified_names, sources
from memlint.model.destinations import Destination, destinations
from memlint.model.devices import (
    depends_on_rank,
    is_distributed,
    is_for_tpus,
    is_left_to_callers,
    may_project_use_accelerator,
    may_use_accelerator,
    runs_on_one_process,
)
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.open_loads import OpenLoad, ignored_parameter, left_open
from memlint.model.program import Program
from memlint.model.values import (
    Attribute,
    Binary,
    Branch,
    Call,
    ClassValue,
    Constant,
    Element,
    External,
    Item,
    Part,
    Value,
    With,
)
from memlint.rule import Rule


class Content(Enum):
    """What a loaded file holds, by what is done with it."""

    STATE = auto()
    """Goes into ``load_state_dict`` of something of the size of a model."""
    MODULE = auto()
    """A pickled model."""
    SMALL = auto()
    """Goes into ``load_state_dict`` of schedulers and gradient scalers only."""
    UNKNOWN = auto()


class TorchLoadWithoutMapLocation(Rule):
    """A checkpoint is loaded onto the device that it was saved from.

    ## What it does
    Finds `torch.load(path)` without `map_location` where the result is a model or goes into `load_state_dict`, in code
    that uses an accelerator; and Lightning's `load_from_checkpoint` without it in code that runs in several processes.
    Functions of the project that hand a parameter on as `map_location`, which is None by default, are followed: calls
    that do not pass it are reported; so are functions that take a `map_location` and do nothing with it.
    A model that callers out of sight hand in, or that is returned to them, counts as one that runs on a GPU.

    ## Why is this bad?
    `torch.load` puts each tensor back onto the device that it was saved from. In distributed training the file was
    saved by rank 0, so every process loads it onto `cuda:0`, next to the model of rank 0, and creates a CUDA context
    there: (processes - 1) times the size of the file plus several hundred MiB each (about 725 MiB in pytorch#23138).
    With one GPU, the weights are there twice while they are copied into the model, and for as long as the checkpoint
    has a name; `optimizer` states in it count as well.

    ## Example
    ```python
    checkpoint = torch.load(path)
    model.load_state_dict(checkpoint["model"])
    ```

    ## Use instead
    ```python
    checkpoint = torch.load(path, map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    ```

    ## Fix safety
    Safe where what is loaded only goes into `load_state_dict`: modules and optimizers copy it to the device of their
    parameters. Unsafe elsewhere, because a model that was pickled as a whole, or a tensor that is used directly, is
    then on the CPU. `mmap=True` saves the host copy as well, for files that are larger than the memory.

    ## When to ignore
    When the file is known to hold CPU tensors, for instance because it was saved from a gathered, offloaded state dict.

    ## References
    - [torch.load](https://docs.pytorch.org/docs/stable/generated/torch.load.html)
    - [pytorch#23138](https://github.com/pytorch/pytorch/issues/23138),
      [examples#1078](https://github.com/pytorch/examples/issues/1078),
      [mmengine#665](https://github.com/open-mmlab/mmengine/pull/665),
      [Lightning#19219](https://github.com/Lightning-AI/pytorch-lightning/issues/19219)
    """

    code = "MEM801"
    name = "torch-load-without-map-location"
    severity = Severity.WARNING
    gate = frozenset({"load", "load_from_checkpoint", "load_state_dict"})
    fixers = ("add_argument",)
    positive = (
        """
import torch
def load_weights(net, path):
    net.load_state_dict(torch.load(path)["model"])  # MEM801: 25
""",
        """
import torch
def read(path, map_location=None):
    with open(path, "rb") as file:
        return torch.load(file)  # MEM801: 16
""",
        """
import torch
import torch.distributed as dist
from torch import nn
def read(path, where=None):
    return torch.load(path, map_location=where)
def load_weights(model, path, map_location=None):
    model.load_state_dict(read(path, map_location))
def main(first, second, third):
    dist.init_process_group("nccl")
    one, two = nn.Linear(3, 3).cuda(), nn.Linear(3, 3).cuda()
    one.load_state_dict(read(first))  # MEM801: 25
    load_weights(two, second)  # MEM801: 5
    two.load_state_dict(read(third, where="cpu"))
    load_weights(one, third, "cpu")
""",
        """
import torch
model = Net().cuda()
checkpoint = torch.load("last.pt")  # MEM801: 14
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
epoch = checkpoint["epoch"] + 1
""",
        """
import torch
from torch.nn.parallel import DistributedDataParallel as DDP

def resume(path, net, optimizer):
    net = DDP(net)
    state = torch.load(path, weights_only=True)  # MEM801: 13
    net.module.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return net
""",
        """
import torch
class Trainer:
    def __init__(self, model, device):
        self.model = model.to(device)

    def _read(self, path):
        with open(path, "rb") as file:
            return torch.load(file)  # MEM801

    def resume(self, path):
        self.state = self._read(path)
        weights = {key.removeprefix("module."): value for key, value in self.state["weights"].items()}
        self.model.load_state_dict(weights, strict=False)
""",
        """
from torch import load
import torch
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
with open("model.pt", "rb") as file:
    net = load(file)  # MEM801: 11

def evaluate(loader):
    net.eval()
    with torch.no_grad():
        return [net(x.to(device)).argmax(1).cpu() for x, _ in loader]
""",
        """
import torch
def pretrained(arch, path, device="cuda"):
    net = arch()
    renamed = {}
    for key, value in torch.load(path).items():  # MEM801: 23
        renamed["backbone." + key] = value
    net.load_state_dict(renamed)
    return net.to(device)
""",
        """
import torch
from transformers import AutoModelForCausalLM, TrainingArguments
def warm_start(path, output):
    model = AutoModelForCausalLM.from_pretrained(None, config=None, state_dict=torch.load(path))  # MEM801
    return model, TrainingArguments(output)
""",
        """
import os
import torch
import lightning as L

class Lit(L.LightningModule):
    def forward(self, x):
        return x

def main(path):
    rank = int(os.environ["LOCAL_RANK"])
    model = Lit.load_from_checkpoint(path)  # MEM801: 13
    return model, rank
""",
        """
import torch
import torch.distributed as dist

def load(model, path):
    dist.init_process_group("nccl")
    shard = torch.load(f"{path}/rank{dist.get_rank()}.pt")  # MEM801
    model.load_state_dict(shard)
""",
    )
    negative = (
        """
import torch
from torch import nn
def score(path, rows):
    net = nn.Linear(4, 1)
    net.load_state_dict(torch.load(path))
    return net(rows).tolist()
""",
        """
import torch
def read(path, map_location=None):
    return torch.load(path, map_location=map_location or "cpu")
""",
        """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
def resume(model, optimizer, path, settings):
    with FSDP.state_dict_type(model.cuda(), settings.kind, settings.model_state, settings.optimizer_state):
        model.load_state_dict(torch.load(path / "model.bin"))
        state = torch.load(path / "optimizer.bin")
        optimizer.load_state_dict(FSDP.optim_state_dict_to_load(model, optimizer, state))
""",
        """
import torch
import torch_xla.core.xla_model as xm
def resume(model, path):
    model.to(xm.xla_device())
    model.load_state_dict(torch.load(path)["model"])
""",
        """
import torch
model = Net().cuda()
checkpoint = torch.load("last.pt", map_location="cpu")
model.load_state_dict(checkpoint["model"])
best = torch.load("best.pt", "cpu")
model.load_state_dict(best)
other = torch.load("other.pt", **options)
model.load_state_dict(other)
""",
        """
import torch
model = torch.nn.Linear(2, 2)
model.load_state_dict(torch.load("cpu_only.pt"))
print(model(torch.zeros(1, 2, dtype=torch.float32).to("cpu")).to(torch.float64))
""",
        """
import numpy as np
import pickle
import torch
from safetensors.torch import load_file
model = Net().cuda()
model.load_state_dict(load_file("model.safetensors"))
table = np.load("table.npy")
with open("index.pkl", "rb") as file:
    index = pickle.load(file)
""",
        """
import torch
from torch.utils.data import Dataset
class Trajectories(Dataset):
    def __init__(self, path):
        self.items = torch.load(path)
    def __getitem__(self, index):
        return self.items["states"][index], self.items["actions"][index]
    def __len__(self):
        return len(self.items["states"])
device = torch.device("cuda")
""",
        """
import torch
from accelerate import Accelerator
accelerator = Accelerator()
model, optimizer = accelerator.prepare(Net(), make_optimizer())
accelerator.load_state("checkpoints/last")
scaler = torch.amp.GradScaler()
scaler.load_state_dict(torch.load("scaler.pt"))
""",
        """
import torch
def load(model, path):
    if torch.cuda.is_available():
        state = torch.load(path)
    else:
        state = torch.load(path, map_location="cpu")
    model.load_state_dict(state)
""",
        """
import functools
import torch
load_on_cpu = functools.partial(torch.load, map_location="cpu")
model = Net().cuda()
model.load_state_dict(load_on_cpu("last.pt"))
""",
        """
import lightning as L
class Lit(L.LightningModule):
    def forward(self, x):
        return x
model = Lit.load_from_checkpoint("last.ckpt")
L.Trainer(accelerator="gpu", devices=1).test(model)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls("load"):
            if "torch.load" in qualified_names(call.callee) and not _is_mapped(call):
                yield from self._loaded(call)
        for call in program.calls():
            found = left_open(call)
            if found is not None:
                yield from self._wrapped(call, found)
        for call in program.calls("load_from_checkpoint"):
            if _is_lightning_loader(call) and not _is_mapped(call) and _is_loaded_by_all(call):
                yield self._finding(call, Confidence.LIKELY, Applicability.UNSAFE, distributed=True)

    def _loaded(self, call: Call) -> Iterator[Finding]:
        ignored = ignored_parameter(call)
        if ignored is not None:
            distributed = _is_loaded_by_all(call)
            yield self._finding(call, Confidence.LIKELY, Applicability.UNSAFE, distributed, target=ignored.name)
            return
        uses = list(destinations(call))
        content = _content(uses)
        if content is Content.SMALL or not (may_use_accelerator(call.function) or _may_be_elsewhere(call, uses)):
            return
        distributed = _is_loaded_by_all(call)
        known = content is not Content.UNKNOWN and (distributed or not _is_chosen_by_device(call))
        only_state = content is Content.STATE and all(_is_indifferent(use) for use in uses)
        yield self._finding(
            call,
            Confidence.LIKELY if known and not _is_for_another_device(call) else Confidence.POSSIBLE,
            Applicability.SAFE if only_state else Applicability.UNSAFE,
            distributed,
        )

    def _wrapped(self, call: Call, found: OpenLoad) -> Iterator[Finding]:
        """A call of a function of the project that leaves open where to load to."""
        content = _content([*destinations(call), *destinations(found.load)])
        if content in {Content.STATE, Content.MODULE} and may_use_accelerator(call.function):
            name = found.parameter.name
            unsure = _is_for_another_device(call) or _is_for_another_device(found.load)
            confidence = Confidence.POSSIBLE if unsure else Confidence.LIKELY
            yield self._finding(call, confidence, Applicability.UNSAFE, _is_loaded_by_all(call), name)

    def _finding(
        self,
        call: Call,
        confidence: Confidence,
        applicability: Applicability,
        distributed: bool,
        parameter: str = "map_location",
        target: str = '"cpu"',
    ) -> Finding:
        consequence = "so every process fills the GPU that saved it" if distributed else "beside the weights in use"
        loader = "torch.load" if "torch.load" in qualified_names(call.callee) else call.name
        each = ", once for each process, with a CUDA context of its own" if distributed else ""
        return self.finding(
            call.node,
            f"`{loader}` puts each tensor back onto the device that it was saved from, {consequence}",
            holds=f"the tensors of the whole file on the GPU, for as long as the result is referenced{each}",
            severity=Severity.ERROR if distributed else Severity.WARNING,
            confidence=confidence,
            fixes=(
                Fix(
                    "add_argument",
                    f"Say where to load to with `{parameter}={target}`",
                    applicability,
                    {"call": call.node},
                    {"code": f"{parameter}={target}"},
                ),
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "file", held=call.node, watch=Watch.LOADED),
        )


def _may_be_elsewhere(call: Call, uses: list[Destination]) -> bool:
    """Whether state goes into a model that runs elsewhere: callers out of sight decide, or the project uses GPUs."""
    users = [use.user for use in uses if isinstance(use.user, Call) and use.user.name in _STATE_LOADERS]
    if any(user.receiver is not None and is_left_to_callers(user.receiver) for user in users):
        return True
    return bool(users) and may_project_use_accelerator(call.function.module)


def _is_for_another_device(call: Call) -> bool:
    """Whether the file was hardly saved from a GPU, or is so small that nobody cares.

    So it is in tests, in files that run on TPUs, whose tensors are saved from host memory, and for states of FSDP,
    whose configuration says whether they are moved there.
    """
    return call.function.module.is_test or is_for_tpus(call.function.module) or _is_sharded_state(call)


def _is_sharded_state(call: Call) -> bool:
    contexts = (
        context for region in call.region.ancestors() if isinstance(region, With) for context in region.contexts
    )
    made = (source for context in contexts for source in sources(context))
    return any(isinstance(source, Call) and source.name == "state_dict_type" for source in made)


def _is_loaded_by_all(call: Call) -> bool:
    """Whether several processes load the same file."""
    if not is_distributed(call.function) or runs_on_one_process(call.region):
        return False
    return not any(depends_on_rank(argument.value) for argument in call.arguments)


def _is_mapped(call: Call) -> bool:
    """Whether a device is given, or may be given out of sight."""
    return call.is_open or call.argument("map_location", 1) is not None


def _is_lightning_loader(call: Call) -> bool:
    """Whether ``load_from_checkpoint`` is called on a class of Lightning's kind, not on an object of the project."""
    receiver = call.receiver
    return (
        receiver is not None
        and any(isinstance(source, (ClassValue, External)) for source in sources(receiver))
        and role(call, Role.MODULE) is not None
    )


def _content(uses: list[Destination]) -> Content:
    loaders = [use.user for use in uses if isinstance(use.user, Call) and _loads_state(use.value, use.user)]
    if any(not _is_small(loader.receiver) for loader in loaders):
        return Content.STATE
    if any(_is_used_as_module(use) for use in uses):
        return Content.MODULE
    if any(_is_state_entry(use.value) for use in uses):
        return Content.STATE
    return Content.SMALL if loaders else Content.UNKNOWN


_STATE_LOADERS = frozenset(
    {"load_state_dict", "set_model_state_dict", "set_optimizer_state_dict", "set_peft_model_state_dict"}
)


def _loads_state(value: Value, call: Call) -> bool:
    if call.name in _STATE_LOADERS:
        return call.callee is not value
    if call.method == "copy_" and call.callee is not value:
        return _is_entry(value)
    return any(argument.value is value and argument.keyword == "state_dict" for argument in call.arguments)


def _is_entry(value: Value) -> bool:
    """Whether ``value`` is one of several tensors of what was loaded, or its ``data``."""
    while isinstance(value, Attribute) and value.name == "data":
        value = value.base
    return isinstance(value, (Item, Part, Element))


def _is_small(receiver: Value | None) -> bool:
    return receiver is not None and bool(role(receiver, Role.SCALER, Role.SCHEDULER))


def _is_used_as_module(use: Destination) -> bool:
    if isinstance(use.user, Call):
        return use.user.callee is use.value or bool(qualified_names(use.user.callee) & torch.MODULE_WRAPPERS)
    return isinstance(use.user, Attribute) and use.user.name in torch.MODULE_EVIDENCE


def _is_state_entry(value: Value) -> bool:
    """Whether ``value`` is an entry such as ``checkpoint["model_state_dict"]``."""
    key = value.index[0] if isinstance(value, Item) and len(value.index) == 1 else None
    return isinstance(key, Constant) and isinstance(key.constant, str) and key.constant.endswith("state_dict")


def _is_chosen_by_device(call: Call) -> bool:
    """Whether another branch of the same ``if`` loads with ``map_location``: the author wants this one on the GPU."""
    mapped = [other for other in call.function.calls if other.name == call.name and _is_mapped(other)]
    branches = [region for region in call.region.ancestors() if isinstance(region, Branch)]
    others = [sibling for branch in branches for sibling in branch.siblings if sibling is not branch]
    return any(other.region.within(branch) for other in mapped for branch in others)


_NUMBERS_AND_TEXT = frozenset(
    {
        "builtins.len",
        "builtins.print",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.range",
        "builtins.isinstance",
        "builtins.type",
        "builtins.format",
    }
)


def _is_indifferent(use: Destination) -> bool:
    """Whether a use does the same wherever the tensors are: state is copied, numbers are read, text is printed."""
    user = use.user
    if isinstance(user, Call):
        return _loads_state(use.value, user) or bool(qualified_names(user.callee) & _NUMBERS_AND_TEXT)
    return isinstance(user, Binary) and any(isinstance(side, Constant) for side in user.operands())
