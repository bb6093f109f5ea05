"""The number of parameters that is read from a constructor is the one that the real module has."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.model.sizes.evaluate import Evaluator
from memlint.model.sizes.objects import ModuleObject

_HEAD = """
import copy
import math
from collections import OrderedDict
from dataclasses import dataclass
import torch
from torch import nn
"""
_EXACT = {
    "linear": "model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))",
    "convolutions": """
model = nn.Sequential(nn.Conv2d(3, 8, (3, 5), groups=1), nn.Conv1d(4, 8, 3, groups=4), nn.Conv3d(2, 4, 3, bias=False),
                      nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2))
""",
    "norms": """
model = nn.ModuleList([nn.BatchNorm2d(7), nn.BatchNorm1d(3, affine=False), nn.LayerNorm((4, 5)),
                       nn.LayerNorm(4, bias=False),
                       nn.GroupNorm(2, 8), nn.InstanceNorm2d(6), nn.InstanceNorm2d(6, affine=True), nn.RMSNorm(9)])
""",
    "recurrent": """
model = nn.ModuleList([nn.LSTM(5, 7, 2, bidirectional=True), nn.GRU(5, 7, num_layers=3, bias=False), nn.RNN(5, 7),
                       nn.LSTM(5, 8, proj_size=3), nn.LSTMCell(4, 6), nn.GRUCell(4, 6, bias=False)])
""",
    "attention": """
model = nn.ModuleList([nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, vdim=6, bias=False),
                       nn.MultiheadAttention(8, 2, add_bias_kv=True)])
""",
    "transformer": "model = nn.Transformer(16, 4, 2, 3, 32)",
    "encoder": "model = nn.TransformerEncoder(nn.TransformerEncoderLayer(d_model=16, nhead=4), num_layers=3)",
    "reparametrized": """
from torch.nn.utils import parametrizations
model = nn.ModuleList([nn.utils.weight_norm(nn.Conv1d(4, 8, 3)), nn.utils.weight_norm(nn.Linear(3, 5), dim=None),
                       nn.utils.spectral_norm(nn.Linear(3, 5)), parametrizations.weight_norm(nn.Linear(5, 3), dim=1)])
""",
    "a file that is not there": """
import os
words = None
if os.path.exists(os.path.join("data", "nothing", "meta.pkl")):
    words = open("data/nothing/meta.pkl").read()
model = nn.Embedding(words if words is not None else 50304, 4)
""",
    "widths computed with tensors": """
widths = torch.arange(4, device="cpu") * 8.5 + 16
widths = (torch.round(torch.divide(widths, 8)) * 8).int().tolist()
rates = [each.item() for each in torch.linspace(0, 0.1, 4, device="cpu")]
depths = torch.diff(torch.tensor([0, 1, 4], device="cpu")).tolist()
model = nn.Sequential(*[nn.Linear(w, d) if r >= 0 else None for w, d, r in zip(widths, depths, rates)])
""",
    "a default behind a value that is missing": """
def layer(kind=None):
    return kind
model = nn.Sequential((layer() or nn.PReLU)(), (layer(nn.Tanh) or nn.PReLU)())
""",
    "a list that is extended under another name": """
widths = [3, 4]
names = widths
names += [5, 6]
del names[0]
model = nn.Linear(len(widths), 2)
""",
    "layers without parameters": """
import random
class Block(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.drop = nn.Dropout(rate) if rate > 0 else nn.Identity()
model = Block(random.random())
""",
    "an object that is made under a condition": """
import random
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = {"width": 3}
        self.sizes["width"] = 4
        self.layer = nn.Linear(self.sizes["width"], 3)
model = nn.Sequential(Block())
if random.random() > 0.5:
    print(Block())
""",
    "embedding": "model = nn.ModuleDict({'a': nn.Embedding(10, 4), 'b': nn.EmbeddingBag(7, 3), 'c': nn.PReLU(5)})",
    "tied": """
class Model(nn.Module):
    def __init__(self, words=100, width=8):
        super().__init__()
        self.inward = nn.Embedding(words, width)
        self.outward = nn.Linear(width, words, bias=False)
        self.outward.weight = self.inward.weight
model = Model()
""",
    "shared module": "layer = nn.Linear(4, 4)\nmodel = nn.Sequential(layer, nn.ReLU(), layer)",
    "configuration": """
@dataclass
class Config:
    width: int = 12
    layers: int = 3
    inner: int = None
    def __post_init__(self):
        if self.inner is None:
            self.inner = 4 * self.width
class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)
class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
model = Model(Config(layers=5))
""",
    "loop": """
class Model(nn.Module):
    def __init__(self, channels=(3, 8, 16), **kwargs):
        super().__init__()
        layers = []
        for index, (into, out) in enumerate(zip(channels[:-1], channels[1:])):
            layers += [nn.Conv2d(into, out, 3, **kwargs)]
            if index == 0:
                layers.append(nn.BatchNorm2d(out))
        self.body = nn.Sequential(*layers)
        for n in range(2):
            setattr(self, f"head{n}", nn.Linear(channels[-1], n + 1))
            self.add_module(f"extra{n}", nn.Linear(1, 1))
model = Model(bias=False)
""",
    "parameters": """
class Model(nn.Module):
    def __init__(self, patches):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, patches ** 2 + 1, 8) * 0.02)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_parameter("gain", nn.Parameter(torch.ones(8)))
        self.register_buffer("mask", torch.ones(50, 50))
        self.plain = torch.zeros(1000)
        self.hidden = [nn.Linear(100, 100)]
model = Model(math.ceil(7 / 2))
""",
    "inheritance": """
class Base(nn.Module):
    norm = nn.LayerNorm
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.build()
    def build(self):
        self.layer = nn.Linear(self.width, self.width)
class Model(Base):
    def __init__(self):
        super().__init__(6)
        self.norm1 = self.norm(self.double)
    @property
    def double(self):
        return 2 * self.width
    def build(self):
        super().build()
        self.more = nn.Linear(self.width, 1)
model = Model()
""",
    "deep copies": """
def clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])
model = clones(nn.Sequential(OrderedDict([("a", nn.Linear(2, 3)), ("b", nn.Linear(3, 2))])), 4)
""",
    "subclass of a layer": """
class Norm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x)
class Down(nn.Sequential):
    def __init__(self, into, out):
        super().__init__(nn.Conv2d(into, out, 1), Norm(out))
model = nn.Sequential(Down(3, 4), *[Down(4, 4) for _ in range(3)])
""",
    "either way without parameters": """
import random
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1) if random.random() > 0.5 else nn.Identity()
        self.layer = nn.Linear(3, 3)
model = Model()
""",
    "members by other ways": """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.gone, self.layer = nn.Linear(9, 9), nn.Linear(2, 3)
        delattr(self, "gone")
        self.__setattr__("a", nn.Linear(3, 4))
        super().__setattr__("b", nn.Linear(4, 5))
        nn.Module.add_module(self, "c", nn.Linear(5, 6))
        self._modules["d"] = nn.Linear(6, 7)
        self._parameters["e"] = nn.Parameter(torch.empty(8))
        self.__dict__["hidden"] = nn.Linear(10, 10)
model = Model()
model.apply(lambda module: module.weight.data.zero_() if isinstance(module, nn.Linear) else None)
""",
}
_CHANGED = {
    "a key": "sizes['width'] = 4",
    "a new key": "sizes['other'] = 4; sizes.pop('width')",
    "an update": "sizes.update(width=4)",
    "a deletion": "del sizes['width']",
    "an item": "widths[0] = 4",
    "a member of a set": "words.add(1)",
    "an attribute": "settings.width = 4",
    "an attribute of a class": "Settings.width = 4",
    "a method": "settings.widen()",
    "a member": "layers[0] = nn.Identity()",
    "a round that ends early": "break",
    "a round that is skipped": "continue",
    "a pattern": "match len(widths):\n            case 1: width = 4",
}
"""Statements that change the size of the model below, if they happen."""
_CHANGEABLE = """
import os
class Settings:
    width = 3
    def widen(self):
        self.width = 4
settings, sizes, widths, words, width = Settings(), {"width": 3}, [3], set(), 3
layers, rounds = nn.Sequential(nn.Linear(2, 2)), 0
for _ in range(2):
    if os.environ.get("WIDE"):
        CHANGE
    rounds += 1
model = nn.ModuleList([
    nn.Linear(3, 3 + len(words) + rounds),
    nn.Linear(sizes.get("width", 5), 3),
    nn.Linear(widths[0], 3),
    nn.Linear(settings.width, width),
    layers,
])
"""
_UNKNOWN = {
    **{f"{name} under a condition": _CHANGEABLE.replace("CHANGE", each) for name, each in _CHANGED.items()},
    "a package that may be missing": """
try:
    import kernels
    width = 3
except ImportError:
    width = 4
model = nn.Linear(width, 3)
""",
    "tensors that are written into": """
widths = torch.arange(4)
others = widths
others += 3
model = nn.Linear(widths.tolist()[1], 3)
""",
    "members that are made at run time": """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        exec("self.layer = nn.Linear(3, 3)")
model = Model()
""",
    "members that apply gives": """
def extend(module):
    module.scale = nn.Parameter(torch.ones(2))
model = nn.Sequential(nn.Linear(3, 3)).apply(extend)
""",
    "tables that are cleared": "model = nn.Sequential(nn.Linear(3, 3))\nmodel._modules.clear()",
    "tensors that become parameters": "model = nn.ParameterDict({'a': torch.empty(3)})",
    "width": "def make(width):\n    return nn.Linear(width, 3)\nimport os\nmodel = make(int(os.environ['W']))",
    "condition": """
import os
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        if os.environ.get("WIDE"):
            self.layer = nn.Linear(10, 10)
model = Model()
""",
    "number of layers": "import os\nmodel = nn.Sequential(*[nn.Linear(2, 2) for _ in range(len(os.listdir()))])",
    "library": """
import backbones
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = backbones.get("x")
model = Model()
""",
    "base class": "import backbones\nclass Model(backbones.Base):\n    pass\nmodel = Model()",
    "norms of unknown dimension": "import os\nmodel = nn.utils.weight_norm(nn.Linear(3, 3), dim=len(os.listdir()))",
    "list that may grow": """
import os
layers = [nn.Linear(2, 2)]
if os.environ.get("DEEP"):
    layers.append(nn.Linear(2, 2))
model = nn.Sequential(*layers)
""",
}


def _evaluated(source: str, tmp_path: Path) -> ModuleObject:
    path = tmp_path / "program.py"
    path.write_text(source)
    namespace = Evaluator(lambda _origin, _name: None, lambda each: each.read_text()).file(path)
    assert namespace is not None
    model = namespace.scope.variables["model"]
    assert isinstance(model, ModuleObject)
    return model


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", _EXACT)
def test_known_numbers_are_exact(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = _evaluated(_HEAD + _EXACT[name], tmp_path)
    assert model.doubts() == []
    variables: dict[str, object] = {"__name__": "program"}
    with torch.device("meta"):
        exec(compile(_HEAD + _EXACT[name], "program.py", "exec", dont_inherit=True), variables)
    real = variables["model"]
    assert model.count() == sum(each.numel() for each in real.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", _UNKNOWN)
def test_what_the_source_does_not_determine_is_unknown(name: str, tmp_path: Path) -> None:
    assert _evaluated(_HEAD + _UNKNOWN[name], tmp_path).doubts()
