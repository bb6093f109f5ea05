"""What the model knows of settings: which value, how surely, and where it was set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memlint.findings import Confidence
from memlint.model.configurations import (
    Framework,
    allocator_settings,
    configurations,
    deepspeed_configurations,
)
from memlint.model.program import Program
from memlint.model.project import Project
from memlint.model.settings import Values, option, values
from memlint.model.unread_options import unread_options

CERTAIN, LIKELY, POSSIBLE = Confidence.CERTAIN, Confidence.LIKELY, Confidence.POSSIBLE


def program(text: str, folder: Path = Path("/nowhere"), **others: str) -> Program:
    """``text`` as the file main.py, beside ``others`` by their names without ``.py``."""
    for name, content in others.items():
        (folder / f"{name}.py").write_text(content)
    files = [folder / "main.py", *(folder / f"{name}.py" for name in others)]
    return Project(folder, files).program(folder / "main.py", text)


def of_train(text: str, folder: Path = Path("/nowhere"), **others: str) -> Values:
    """The values of the first argument of the only call of ``train``."""
    (call,) = program(text, folder, **others).calls("train")
    return values(call.arguments[0].value)


def told(found: Values) -> list[tuple[object, Confidence, str]]:
    return [(known.constant, known.confidence, str(known.origin)) for known in found.known]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("train(8)", [(8, CERTAIN, "main.py:1")], id="literal"),
        pytest.param("SIZE = 4\n\ntrain(SIZE)", [(4, CERTAIN, "main.py:1")], id="module-constant"),
        pytest.param("SIZE = 4\ntrain(SIZE * 2 ** 3)", [(32, CERTAIN, "main.py:2")], id="arithmetic"),
        pytest.param("train(not True)", [(False, CERTAIN, "main.py:1")], id="not"),
        pytest.param("train([1, 2])", [([1, 2], CERTAIN, "main.py:1")], id="list"),
        pytest.param("train({'a': 1})", [({"a": 1}, CERTAIN, "main.py:1")], id="dict"),
        pytest.param("c = {'a': {'b': 2}}\ntrain(c['a']['b'])", [(2, CERTAIN, "main.py:1")], id="key"),
        pytest.param("c = {'a': 1}\ntrain(c.get('b', 3))", [(3, CERTAIN, "main.py:2")], id="missing-key"),
        pytest.param("c = dict(a=1)\ntrain(c.get('a', 3))", [(1, CERTAIN, "main.py:1")], id="dict-call"),
        pytest.param(
            "import os\ntrain(int(os.environ.get('N', '8')))", [(8, LIKELY, "main.py:2")], id="environment-default"
        ),
        pytest.param(
            "from types import SimpleNamespace as S\nc = S(lr=1)\ntrain(c.lr)",
            [(1, CERTAIN, "main.py:2")],
            id="namespace",
        ),
        pytest.param(
            "import sys\nn = 2 if sys.argv else 3\ntrain(n)",
            [(2, CERTAIN, "main.py:2"), (3, CERTAIN, "main.py:2")],
            id="either",
        ),
        pytest.param("train(None or 5)", [(5, CERTAIN, "main.py:1")], id="or"),
        pytest.param("def run(size=16):\n    train(size)", [(16, LIKELY, "main.py:1")], id="parameter-default"),
        pytest.param("def run(size=16):\n    train(size)\nrun(4)", [(4, CERTAIN, "main.py:3")], id="parameter"),
        pytest.param("train(2 ** 9999)", [], id="absurd"),
        pytest.param("train(1 / 0)", [], id="division-by-zero"),
        pytest.param("train(compute())", [], id="computed"),
    ],
)
def test_expressions(text: str, expected: list[tuple[object, Confidence, str]]) -> None:
    found = of_train(text)
    assert sorted(told(found), key=repr) == sorted(expected, key=repr)
    assert bool(found.others) == (not expected)


ARGPARSE = """
import argparse
def parse():
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group()
    {declaration}
    return parser.parse_args()
def main(args):
    train(args.size)
main(parse())
"""


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        pytest.param("parser.add_argument('--size', type=int, default=8)", 8, id="default"),
        pytest.param("parser.add_argument('-s', '--size', type=int, default='8')", 8, id="default-as-text"),
        pytest.param("group.add_argument('--size', default=8)", 8, id="group"),
        pytest.param("parser.add_argument('--n', dest='size', default=8)", 8, id="dest"),
        pytest.param("parser.add_argument('--size', action='store_true')", False, id="store-true"),
        pytest.param("parser.add_argument('--size', action='store_false')", True, id="store-false"),
        pytest.param("parser.add_argument('--size', type=int)", None, id="without-default"),
        pytest.param("parser.add_argument('--size'); parser.set_defaults(size=3)", 3, id="set-defaults"),
    ],
)
def test_a_default_of_argparse_is_likely(declaration: str, expected: object) -> None:
    found = of_train(ARGPARSE.format(declaration=declaration)).only
    assert found is not None
    assert (found.constant, found.confidence, found.origin.row) == (expected, LIKELY, 6)


@pytest.mark.parametrize(
    "declaration",
    ["parser.add_argument('size', type=int)", "parser.add_argument('--size', required=True)", "pass"],
    ids=["positional", "required", "undeclared"],
)
def test_what_the_user_has_to_pass_is_unknown(declaration: str) -> None:
    found = of_train(ARGPARSE.format(declaration=declaration))
    assert found.is_set
    assert found.only is None
    assert found.is_on() is None


def test_options_declared_in_another_file(tmp_path: Path) -> None:
    options = """
import argparse
def add(parser):
    parser.add_argument("--batch-size", default=4)
def parse():
    parser = argparse.ArgumentParser()
    add(parser)
    args, rest = parser.parse_known_args()
    return args
"""
    found = of_train("from options import parse\nargs = parse()\ntrain(args.batch_size)", tmp_path, options=options)
    assert told(found) == [(4, LIKELY, "options.py:4")]


def test_an_option_that_is_changed_later_has_both_values() -> None:
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', default=4)\n"
    text += "args = parser.parse_args()\ndef adapt():\n    args.size = 1\ndef main():\n    train(args.size)\n"
    found = of_train(text)
    assert {known.constant for known in found.known} == {1, 4}
    assert found.only is None


@pytest.mark.parametrize(
    "text",
    [
        "import click\n@click.option('--batch-size', default=8)\ndef main(batch_size):\n    train(batch_size)",
        "import typer\ndef main(size: int = typer.Option(8)):\n    train(size)",
        "from absl import flags\nflags.DEFINE_integer('size', 8, 'help')\nFLAGS = flags.FLAGS\ntrain(FLAGS.size)",
        "import tyro\nclass C:\n    size: int = 8\nc = tyro.cli(C)\ntrain(c.size)",
        """
from transformers import HfArgumentParser
class C:
    size: int = 8
(c,) = HfArgumentParser(C).parse_args_into_dataclasses()
train(c.size)""",
        """
from transformers import HfArgumentParser
class A:
    x = 1
class C:
    size: int = 8
parser = HfArgumentParser((A, C))
a, c = parser.parse_args_into_dataclasses()
train(c.size)""",
        """
import lightning as L
class M(L.LightningModule):
    def __init__(self, size=8):
        self.save_hyperparameters()
    def train_dataloader(self):
        train(self.hparams.size)""",
    ],
    ids=["click", "typer", "absl", "tyro", "hf-one", "hf-two", "lightning"],
)
def test_other_command_lines(text: str) -> None:
    found = of_train(text).only
    assert found is not None
    assert (found.constant, found.confidence) == (8, LIKELY)


DATA_CLASS = """
from dataclasses import dataclass, field
@dataclass
class Config:
    lr: float = 0.1
    size: int = field(default=8)
    name: str
"""


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        pytest.param("c = Config()\ntrain(c.size)", [(8, CERTAIN)], id="default"),
        pytest.param("c = Config(size=2)\ntrain(c.size)", [(2, CERTAIN)], id="keyword"),
        pytest.param("c = Config(0.5, 2)\ntrain(c.size)", [(2, CERTAIN)], id="position"),
        pytest.param("def run(c: Config):\n    train(c.size)", [(8, POSSIBLE)], id="annotation"),
        pytest.param("def run(c: Config):\n    train(c.size)\nd = Config(size=3)", [(3, LIKELY)], id="made-somewhere"),
        pytest.param("train(Config.lr)", [(0.1, CERTAIN)], id="class-attribute"),
        pytest.param("c = Config()\ntrain(c.name)", [], id="no-default"),
    ],
)
def test_fields_of_classes(use: str, expected: list[tuple[object, Confidence]]) -> None:
    assert [(k.constant, k.confidence) for k in of_train(DATA_CLASS + use).known] == expected


JSON = '{\n  "train_batch_size": 16,\n  "zero_optimization": {\n    "stage": 2,\n    "cpu_offload": true\n  }\n}\n'
YAML = "base: &base\n  pin_memory: true\ntrain:\n  <<: *base\n  batch_size: 4\n  sizes: [1, 2]\n"


def test_a_json_file_that_the_program_reads(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(JSON)
    text = 'import json\nwith open("c.json") as f:\n    c = json.load(f)\ntrain(c["zero_optimization"]["stage"])'
    assert told(of_train(text, tmp_path)) == [(2, LIKELY, "c.json:4")]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('c["train"]["batch_size"]', [(4, LIKELY, "c.yaml:5")]),
        ('c["train"]["pin_memory"]', [(True, LIKELY, "c.yaml:2")]),
        ('c["train"]["sizes"][1]', [(2, LIKELY, "c.yaml:6")]),
        ('c["train"].get("other", 7)', [(7, CERTAIN, "main.py:4")]),
    ],
)
def test_a_yaml_file_that_the_program_reads(
    expression: str, expected: list[tuple[object, Confidence, str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    text = f"import yaml\nfrom pathlib import Path\nc = yaml.safe_load(Path('c.yaml').read_text())\ntrain({expression})"
    assert told(of_train(text, tmp_path)) == expected


@pytest.mark.parametrize("content", ["{", "- [", "a: !!python/name:os.system\n", ""], ids=range(4))
def test_a_broken_document_is_unknown(content: str, tmp_path: Path) -> None:
    for name in ("c.json", "c.yaml"):
        (tmp_path / name).write_text(content)
        found = of_train(f"import yaml\nc = yaml.safe_load(open('{name}'))\ntrain(c['a'])", tmp_path)
        assert found.only is None


def test_options_of_training_arguments() -> None:
    text = """
import argparse
from transformers import TrainingArguments
parser = argparse.ArgumentParser()
parser.add_argument("--bf16", action="store_true")
args = parser.parse_args()
arguments = TrainingArguments("out", bf16=args.bf16, fp16=True)
arguments.gradient_checkpointing = True
"""
    (found,) = configurations(program(text))
    assert found.framework is Framework.TRAINING_ARGUMENTS
    assert [(found.option(name).is_on()) for name in ("bf16", "fp16", "gradient_checkpointing", "tf32")] == [
        False,
        True,
        True,
        False,
    ]
    assert not found.option("tf32").is_set


def test_defaults_of_a_parsed_class_of_training_arguments() -> None:
    text = """
from dataclasses import dataclass, field
import transformers
@dataclass
class Arguments(transformers.TrainingArguments):
    bf16: bool = field(default=True)
parser = transformers.HfArgumentParser((Arguments, transformers.TrainingArguments))
mine, theirs = parser.parse_args_into_dataclasses()
"""
    mine, theirs = configurations(program(text), Framework.TRAINING_ARGUMENTS)
    assert told(mine.option("bf16")) == [(True, LIKELY, "main.py:6")]
    assert theirs.is_parsed
    assert not theirs.option("bf16").is_set


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import lightning as L\nL.Trainer(precision=16)", Framework.LIGHTNING_TRAINER),
        ("import pytorch_lightning as pl\npl.Trainer(precision=16)", Framework.LIGHTNING_TRAINER),
        ("from accelerate import Accelerator\nAccelerator(precision=16)", Framework.ACCELERATOR),
        ("from torch.nn.parallel import DistributedDataParallel as DDP\nDDP(m, precision=16)", Framework.DDP),
        ("from torch.distributed.fsdp import FullyShardedDataParallel as F\nF(m, precision=16)", Framework.FSDP),
        ("import trl\ntrl.SFTConfig(precision=16)", Framework.TRAINING_ARGUMENTS),
        ("import deepspeed\ndeepspeed.initialize(precision=16)", Framework.DEEPSPEED),
    ],
)
def test_frameworks(code: str, expected: Framework) -> None:
    (found,) = configurations(program(code))
    assert found.framework is expected
    assert told(found.option("precision")) == [(16, CERTAIN, "main.py:2")]


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ("config='ds.json'", "ds.json:4"),
        ("config={'zero_optimization': {'stage': 2}, 'lr': compute()}", "main.py:2"),
        ("config=json.load(open('ds.json'))", "ds.json:4"),
    ],
    ids=["file", "dictionary", "read"],
)
def test_deepspeed(given: str, row: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(JSON)
    (found,) = deepspeed_configurations(program(f"import deepspeed, json\ndeepspeed.initialize({given})", tmp_path))
    stage = found.option("zero_optimization", "stage").only
    assert stage is not None
    assert (stage.constant, str(stage.origin)) == (2, row)
    assert not found.option("zero_optimization", "offload_param", "device").is_set


@pytest.mark.parametrize(
    ("code", "variable"),
    [
        ("os.environ['PYTORCH_ALLOC_CONF'] = 'max_split_size_mb:64'", "PYTORCH_ALLOC_CONF"),
        ("os.environ.setdefault('PYTORCH_CUDA_ALLOC_CONF', 'max_split_size_mb:64')", "PYTORCH_CUDA_ALLOC_CONF"),
        ("os.environ.update({'PYTORCH_CUDA_ALLOC_CONF': 'max_split_size_mb:64'})", "PYTORCH_CUDA_ALLOC_CONF"),
        ("torch.cuda.memory._set_allocator_settings('max_split_size_mb:64')", None),
    ],
)
def test_the_allocator(code: str, variable: str | None) -> None:
    (found,) = allocator_settings(program(f"import os, torch\n{code}"))
    assert found.variable == variable
    assert found.options == {"max_split_size_mb": "64"}


_ANY = re.compile("")


def test_an_option_that_nothing_reads() -> None:
    text = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--gradient_checkpointing", action="store_true")
parser.add_argument("--lr", default=0.1)
args = parser.parse_args()
train(args.lr)
"""
    assert [unread.name for unread in unread_options(program(text).module, _ANY)] == ["gradient_checkpointing"]
    assert not list(unread_options(program(text + "main(**vars(args))").module, _ANY))
    assert not list(unread_options(program(text + "print(args.gradient_checkpointing)").module, _ANY))
    assert not list(unread_options(program(text + "print(getattr(args, 'gradient_checkpointing'))").module, _ANY))


def test_what_a_call_does_not_pass_is_not_set() -> None:
    (call,) = program("make(batch_size=2)").calls("make")
    assert option(call, "batch_size").may_be(2)
    assert not option(call, "shuffle").is_set
    (call,) = program("make(**anything)").calls("make")
    assert option(call, "shuffle").is_on() is None


def test_a_dictionary_that_each_round_of_a_loop_extends() -> None:
    text = """
def main(rounds):
    options = {"lr": 1}
    for more in rounds:
        options = {**options, **more}
        train(options["lr"])
"""
    found = of_train(text)
    assert [known.constant for known in found.known] == [1]
    assert found.others
