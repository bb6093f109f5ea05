"""A small project in which findings of one file hang on others, and edits that change what they hang on."""

from __future__ import annotations

import random
from pathlib import Path

from memlint.cache.cache import DIRECTORY, Cache
from memlint.check.session import Outcome, Session
from memlint.config import Configuration
from memlint.registry import all_rules
from memlint.rule import RuleFacts

FILES = {
    "pyproject.toml": '[project]\nname = "p"\ndependencies = ["torch>=2.1"]\n',
    "lib/__init__.py": "",
    "lib/losses.py": "from lib.base import scaled\n\ndef loss_of(model, x):\n    return scaled(model(x).sum())\n",
    "lib/base.py": "def scaled(x):\n    return x * 2\n",
    "lib/meters.py": """\
class Meter:
    def __init__(self):
        self.seen = []

    def update(self, x):
        self.seen.append(x)
""",
    "net.py": """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)

    def score(self, x):
        return self(x).sum()
""",
    "train.py": """\
import torch
from lib.losses import loss_of
from lib.meters import Meter
from net import Net

def train(loader, epochs):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    meter, total = Meter(), 0
    for x in loader:
        loss = loss_of(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss
        meter.update(loss)
    return model, total
""",
    "evaluate.py": """\
import torch

def evaluate(model, loader):
    model.eval()
    outputs = []
    for x in loader:
        outputs.append(model(x))
    return torch.cat(outputs)
""",
    "main.py": """\
import torch
from evaluate import evaluate
from train import train

if __name__ == "__main__":
    loader = [torch.randn(2, 3) for _ in range(4)]
    model, total = train(loader, 2)
    with torch.no_grad():
        print(evaluate(model, loader))
""",
    "tools/report.py": "import torch\nfrom lib import *\n\ndef report(xs):\n    return torch.stack(xs)\n",
}

TEXTS = {
    "lib/base.py": [
        "def scaled(x):\n    return x.detach() * 2\n",
        "def scaled(x):\n    return x.item()\n",
        "scaled = abs\n",
    ],
    "lib/losses.py": [
        "from lib.base import *\n\ndef loss_of(model, x):\n    return scaled(model(x).sum())\n",
        "from .base import scaled\n\ndef loss_of(model, x):\n    return scaled(model(x).sum()).item()\n",
        "def loss_of(model, x\n",
    ],
    "lib/meters.py": [
        "class Meter:\n    def update(self, x):\n        self.last = float(x)\n",
        FILES["lib/meters.py"].replace("append(x)", "append(x.item())"),
    ],
    "lib/__init__.py": ["from lib.base import scaled\n", "import torch\n"],
    "main.py": [
        "import torch\nfrom evaluate import evaluate\n\ndef main(model, loader):\n    return evaluate(model, loader)\n",
        "import torch\nfrom evaluate import evaluate as f\n\n@torch.no_grad()\ndef main(m, x):\n    return f(m, x)\n",
        "print(1)\n",
    ],
    "caller.py": [
        "import torch\nfrom evaluate import evaluate\n\ndef f(m):\n    with torch.no_grad():\n        evaluate(m, 0)\n",
        "from train import train\n\ntrain([1, 2], 3)\n",
        "from net import Net\n\ndef go(xs):\n    net = Net()\n    return sum(net.score(x) for x in xs)\n",
    ],
    "tools/more.py": ["from evaluate import evaluate\nevaluate(None, [])\n", "import torch\nimport base\n"],
    "base.py": ["def scaled(x):\n    return x\n", "import torch\n\ndef evaluate(x):\n    return x\n"],
    "torch.py": ["def no_grad():\n    pass\n"],
    "lib/evaluate.py": ["def evaluate(model, loader):\n    return 0\n"],
    "train.py": [
        FILES["train.py"].replace("total += loss", "total += loss.item()"),
        FILES["train.py"].replace("train(", "fit("),
    ],
    "evaluate.py": [
        FILES["evaluate.py"].replace("def evaluate", "def assess"),
        "@torch.no_grad()\n" + FILES["evaluate.py"],
    ],
    "pyproject.toml": [
        '[project]\nname = "p"\ndependencies = ["torch==1.12"]\n',
        '[tool.memlint]\nselect = ["MEM1"]\n',
        '[tool.memlint]\nselect = ["ALL"]\nexclude = ["tools"]\n',
        '[tool.memlint.per-file-ignores]\n"train.py" = ["MEM101"]\n',
    ],
    "requirements.txt": ["torch<2\n", "torch>=2.2\n"],
    "tools/__init__.py": [""],
    ".gitignore": ["caller.py\n", "lib/base.py\n"],
}


def make(root: Path) -> None:
    """Writes the project."""
    for name, text in FILES.items():
        write(root / name, text)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def edit(root: Path, chance: random.Random) -> str:
    """Changes one file of the project; says which and how."""
    name = chance.choice(sorted(TEXTS))
    path = root / name
    choices: list[str | None] = [*TEXTS[name], FILES.get(name), *([None] if name not in {"train.py"} else [])]
    text = chance.choice(choices)
    if text is None:
        path.unlink(missing_ok=True)
        return f"{name} removed"
    if chance.random() < 0.2:
        text += f"# {chance.random()}\n"
    write(path, text)
    return f"{name} is {text!r}"


def session(root: Path, cache: Cache | None = None, paths: list[Path] | None = None) -> Session:
    """A check of the project, or of some ``paths`` in it."""
    facts = tuple(map(RuleFacts.of, all_rules()))
    configuration = Configuration(frozenset(each.code for each in facts))
    return Session(configuration, all_rules, paths or [root], cache=cache, facts=facts)


def opened(root: Path) -> Cache:
    """The cache of the project."""
    return Cache(root / DIRECTORY, root)


def cold(root: Path, paths: list[Path] | None = None) -> list[str]:
    """What is found without a cache."""
    return found(session(root, paths=paths).run(1))


def warm(root: Path, paths: list[Path] | None = None) -> list[str]:
    """What is found with the cache of the project."""
    return found(session(root, opened(root), paths).run(1))


def found(outcome: Outcome) -> list[str]:
    """All that a report may show."""
    return [
        *(repr((diagnostic, result.text)) for result in outcome.results for diagnostic in result.diagnostics),
        *map(str, (*outcome.errors, *outcome.warnings)),
    ]
