"""What a script trains, and how, is read with the line that says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memlint.architectures import checkpoint_configuration, checkpoints, table
from memlint.capacity.estimate import estimate_script
from memlint.model.sizes.hugging_face import source_of
from memlint.model.sizes.peak import estimate
from memlint.model.sizes.reading import Reader, Reading

_SCRIPT = """\
import argparse
import torch, torchvision
from torch.utils.data import DataLoader
from torchvision import transforms

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--arch", default="resnet18")
    args = parser.parse_args()
    crop = transforms.Compose([transforms.Resize(256), transforms.RandomCrop(224), transforms.ToTensor()])
    model = torchvision.models.__dict__[args.arch]() if False else torchvision.models.resnet18(num_classes=10)
    model.cuda()
    teacher = torchvision.models.resnet34().cuda().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    valid = DataLoader(data, batch_size=512)
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

if __name__ == "__main__":
    main()
"""


def _reading(tmp_path: Path, source: str = _SCRIPT, **overrides: object) -> Reading:
    path = tmp_path / "train.py"
    path.write_text(source)
    return Reader(lambda _origin, _name: None, lambda each: each.read_text(), overrides).read(path)


def test_a_script_is_read(tmp_path: Path) -> None:
    reading = _reading(tmp_path)
    assert {name: fact.value for name, fact in reading.facts.items() if name != "crop"} == {
        "image": 224,
        "optimizer": "SGD",
        "optimizer state": 4,
        "foreach": True,
        "precision": "autocast bfloat16",
        "backward": True,
        "batch": 32,
    }
    assert reading.facts["batch"].place.row == 8
    assert reading.facts["batch"].by_command_line
    assert reading.facts["precision"].place.row == 19


def test_models_that_are_not_trained_count_without_gradients(tmp_path: Path) -> None:
    reading = _reading(tmp_path)
    small, large = (table()[f"torchvision.models.resnet{depth}"]["params"] for depth in (18, 34))
    assert [model.count() for model in reading.trained] == [small - 990 * 513]
    peak = estimate(reading)
    assert peak is not None
    assert peak.is_complete
    assert peak.parameters.likely == 4 * (small - 990 * 513 + large)
    assert peak.gradients.likely == 4 * (small - 990 * 513)
    assert peak.optimizer.likely == peak.gradients.likely


def test_a_command_line_argument_can_be_set(tmp_path: Path) -> None:
    assert _reading(tmp_path, batch_size=64).facts["batch"].value == 64


def test_what_is_not_known_is_not_invented(tmp_path: Path) -> None:
    reading = _reading(tmp_path, _SCRIPT.replace("default=32", "required=True"))
    assert reading.facts["batch"].value is None
    peak = estimate(reading)
    assert peak is not None
    assert peak.activations is None
    assert "the batch size" in peak.missing


def test_the_table_of_architectures_is_large() -> None:
    assert len(table()) >= 300
    bert = next(each for each in table().values() if each.get("checkpoint") == "google-bert/bert-base-uncased")
    assert (bert["layers"], bert["width"], bert["vocabulary"]) == (12, 768, 30522)


def test_checkpoints_have_their_own_size(tmp_path: Path) -> None:
    lines = [
        "from transformers import AutoModel, AutoModelForCausalLM",
        'known = AutoModelForCausalLM.from_pretrained("openai-community/gpt2-medium").cuda()',
        'short = AutoModelForCausalLM.from_pretrained("pythia-160m").cuda()',
        'other = AutoModelForCausalLM.from_pretrained("somebody/gpt2-of-her-own").cuda()',
    ]
    reading = _reading(tmp_path, "\n".join(lines))
    # As ``sum(p.numel() for p in model.parameters())`` says of these checkpoints.
    expected = {2: 354_823_168, 3: 162_322_944}
    assert {each.place.row: each.count() for each in reading.models if each.place and not each.doubts()} == expected


def test_labels_and_changed_configurations_are_followed(tmp_path: Path) -> None:
    lines = [
        "from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification",
        "from transformers import GPT2Config, GPT2LMHeadModel, AutoModelForCausalLM",
        'five = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=5).cuda()',
        'config = AutoConfig.from_pretrained("bert-base-cased", num_labels=7)',
        'seven = AutoModelForSequenceClassification.from_pretrained("bert-base-cased", config=config).cuda()',
        'several = AutoModelForSequenceClassification.from_pretrained("bert-base-cased", num_labels=len(NAMES)).cuda()',
        'images = AutoModelForImageClassification.from_pretrained("google/vit-base-patch16-224").cuda()',
        "short = GPT2LMHeadModel(GPT2Config(n_layer=int(DEPTH))).cuda()",
        'more = AutoModelForCausalLM.from_pretrained("gpt2").cuda()',
        "more.resize_token_embeddings(50260)",
    ]
    reading = _reading(tmp_path, "\n".join(lines))
    # 768 weights and a bias for each label beyond two.
    expected = {3: 109_483_778 + 3 * 769, 5: 108_311_810 + 5 * 769, 6: None, 7: None, 8: None, 9: None}
    assert {
        each.place.row: None if each.doubts() else each.count() for each in reading.models if each.place
    } == expected


_MADE = {
    "GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_positions=64, n_embd=96, n_layer=3, n_head=3))": 437_856,
    "AutoModelForCausalLM.from_config(AutoConfig.from_pretrained('gpt2', n_layer=2))": 53_561_088,
    "BertForNextSentencePrediction(BertConfig(hidden_size=128, num_attention_heads=2))": 14_263_938,
    "LlamaForCausalLM(LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=4, "
    "num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True))": 10_963_200,
    "CLIPModel(CLIPConfig(projection_dim=256))": 150_949_633,
    "MarianMTModel(MarianConfig(encoder_layers=1, decoder_layers=1))": 90_985_472,
}
"""With the parameters of the real models, made on the meta device with transformers 5.23."""


@pytest.mark.skipif(source_of("transformers.pytorch_utils") is None, reason="reads the source of transformers")
@pytest.mark.parametrize("expression", _MADE)
def test_models_of_other_sizes_are_read_from_the_library_that_is_installed(tmp_path: Path, expression: str) -> None:
    names = ", ".join(re.findall(r"\b[A-Z][A-Za-z0-9]+(?=[(.])", expression))
    reading = _reading(tmp_path, f"from transformers import {names}\nmodel = {expression}.cuda()\n")
    assert [(each.doubts(), each.count()) for each in reading.models] == [([], _MADE[expression])]
    assert [path.name for path in reading.texts] == ["train.py"]


def test_labels_of_a_model_that_is_made_anew_are_those_of_its_configuration(tmp_path: Path) -> None:
    text = """
from transformers import ViTConfig, ViTForImageClassification
made = ViTForImageClassification(ViTConfig()).cuda()
loaded = ViTForImageClassification.from_pretrained("google/vit-base-patch16-224").cuda()
"""
    assert [each.doubts()[:1] for each in _reading(tmp_path, text).models] == [
        [],
        ["ViTForImageClassification: number of labels"],
    ]


def test_parts_of_checkpoints_of_diffusers_have_their_own_configuration(tmp_path: Path) -> None:
    text = """
from diffusers import AutoencoderKL, UNet2DConditionModel
name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
unet = UNet2DConditionModel.from_pretrained(name, subfolder="unet").cuda()
vae = AutoencoderKL.from_pretrained(name, subfolder="vae").cuda()
other = UNet2DConditionModel.from_pretrained("somebody/else", subfolder="unet").cuda()
"""
    models = _reading(tmp_path, text).models
    assert [each.count() for each in models if not each.doubts()] == [859_520_964, 83_653_863]
    assert len(models) == 3


def test_a_checkpoint_that_is_only_similar_to_a_default_configuration_has_no_certain_size(tmp_path: Path) -> None:
    # The default of DeBERTa has 30,522 words, the checkpoint 50,265.
    text = 'from transformers import AutoModel\nmodel = AutoModel.from_pretrained("microsoft/deberta-base").cuda()\n'
    assert "similar" in _reading(tmp_path, text).models[0].doubts()[0]


def test_a_default_configuration_is_not_taken_for_a_checkpoint_of_another_size() -> None:
    # The documentation of OPT names facebook/opt-350m beside defaults of 125 million parameters.
    assert checkpoint_configuration("facebook/opt-350m") is None
    assert checkpoints()["facebook/opt-125m"]["params"] == 125_239_296
    assert checkpoint_configuration("Qwen/Qwen3-8B") == {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    }


_REPLACED = """
import torch, torchvision
backbone = torchvision.models.__dict__["resnet18"]()
layers = torch.nn.Sequential(*list(backbone.children())[:-1]).cuda()
other = torchvision.models.__dict__["resnet18"]().cuda()
grey = torchvision.models.resnet18().cuda()
grey.conv1 = torch.nn.Conv2d(1, 64, 7, bias=False)
deep = torchvision.models.resnet18().cuda()
deep.layer4[1].conv2 = torch.nn.Conv2d(512, 512, 1)
"""


def test_the_parts_of_a_known_model_are_known_and_not_what_is_inside_them(tmp_path: Path) -> None:
    reading = _reading(tmp_path, _REPLACED)
    counts = {each.place.row: None if each.doubts() else each.count() for each in reading.models if each.place}
    whole = table()["torchvision.models.resnet18"]["params"]
    assert counts == {4: whole - 513_000, 5: whole, 6: whole - 2 * 64 * 7 * 7, 8: None}


def test_what_is_assumed_of_files_is_said(tmp_path: Path) -> None:
    source = "import os, torch\nif os.path.exists('last.pt'):\n    model = torch.load('last.pt')\n"
    reading = _reading(tmp_path, source + "else:\n    model = torch.nn.Linear(2, 2).cuda()\n")
    assert [each.count() for each in reading.models if not each.doubts()] == [6]
    assert {name: place.row for name, place in reading.assumed.items()} == {"last.pt": 2}


_GROUPED = """
import torch
model = torch.nn.Linear(4, 4).cuda()
wanted = set()
for name, parameter in model.named_parameters():
    if parameter.is_cuda:
        wanted.add(name)
named = dict(model.named_parameters())
optimizer = torch.optim.AdamW([{"params": [named[each] for each in sorted(wanted)], "weight_decay": 0.1}])
model(torch.ones(2, 4).cuda()).sum().backward()
"""


def test_the_only_model_is_the_one_that_is_trained(tmp_path: Path) -> None:
    assert [each.count() for each in _reading(tmp_path, _GROUPED).trained] == [20]


def test_modules_of_the_project_and_required_arguments_are_followed(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("import torch\ndef tiny(n):\n    return torch.nn.Linear(n, n)\n")
    (tmp_path / "examples" / "one").mkdir(parents=True)
    script = tmp_path / "examples" / "one" / "train.py"
    script.write_text(
        "import argparse\nimport nets\nparser = argparse.ArgumentParser()\nparser.add_argument('--data')\n"
        "args = parser.parse_args()\nif args.data is None:\n    raise SystemExit('which data?')\n"
        "model = nets.__dict__['tiny'](8).cuda()\n"
    )
    assert [each.count() for each in estimate_script(script, None, {}).reading.models] == [72]


_CONFIGURED = """\
import argparse, json, yaml, tomllib
import torch
from torch.utils.data import DataLoader
with open("config.yaml") as file:
    config = yaml.safe_load(file)
with open("net.toml", "rb") as file:
    net = tomllib.load(file)
options = argparse.Namespace(**json.loads(open("options.json").read()))
model = torch.nn.Sequential(*[torch.nn.Linear(net["width"], net["width"]) for _ in range(net["deep"]["layers"])]).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=options.momentum)
for x in DataLoader(data, batch_size=config["data"]["batch_size"], shuffle=True):
    model(x).sum().backward()
"""


def test_configuration_files_are_read_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\ndata:\n  workers: 2\n  batch_size: 48\n")
    (tmp_path / "net.toml").write_text("width = 8\n[deep]\nlayers = 3\n")
    (tmp_path / "options.json").write_text('{\n  "lr": 0.1,\n  "momentum": 0.9\n}\n')
    reading = _reading(tmp_path, _CONFIGURED)
    assert [model.count() for model in reading.trained] == [3 * 72]
    assert (reading.facts["batch"].value, reading.facts["optimizer state"].value) == (48, 4)
    assert (reading.facts["batch"].place.path.name, reading.facts["batch"].place.row) == ("config.yaml", 4)


def test_a_configuration_file_that_is_missing_leaves_its_values_unknown(tmp_path: Path) -> None:
    reading = _reading(tmp_path, _CONFIGURED)
    assert [bool(model.doubts()) for model in reading.models] == [True]
    assert reading.facts["batch"].value is None


_OWN_TRAINER = """
import torch
from transformers import Trainer, TrainingArguments

class Distillation(Trainer):
    def __init__(self, teacher, **arguments):
        super().__init__(**arguments)
        self.teacher = teacher

Distillation(torch.nn.Linear(9, 9).cuda(), model=torch.nn.Linear(2, 2),
             args=TrainingArguments("out", per_device_train_batch_size=16)).train()
"""


def test_a_trainer_of_the_project_trains_what_it_is_given(tmp_path: Path) -> None:
    reading = _reading(tmp_path, _OWN_TRAINER)
    assert [each.count() for each in reading.trained] == [6]
    assert reading.facts["batch"].value == 16


_CHOSEN = """
import argparse
import torch

def arguments():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--opt", default="adamw")
    parser.add_argument("--kind", required=True)
    return parser

args = argparse.ArgumentParser("train", parents=[arguments()]).parse_args()
model = torch.nn.Linear(2, 2).cuda()
if args.{name} == "sgd":
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
else:
    optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(2).cuda()).sum().backward()
"""


@pytest.mark.parametrize(("name", "optimizer"), [("opt", "AdamW"), ("kind", None)])
def test_the_parsers_parents_choose_the_optimizer(tmp_path: Path, name: str, optimizer: str | None) -> None:
    reading = _reading(tmp_path, _CHOSEN.format(name=name))
    assert (reading.facts["optimizer"].value, reading.value("optimizer state") is None) == (
        optimizer,
        optimizer is None,
    )


_SHARDED = """\
import functools, torch, torchvision
import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, ShardingStrategy, fully_shard
from torch.utils.data import DataLoader
crop = torchvision.transforms.RandomCrop(224)
model = torchvision.models.resnet50()
HOW
optimizer = torch.optim.Adam(model.parameters())
for x, y in DataLoader(data, batch_size=1):
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
_WHOLE = 4 * 25_557_032
"""Bytes of its parameters."""


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        ('L.Trainer(strategy="fsdp", devices=4)', (4, 4, 4)),
        ('L.Trainer(strategy="deepspeed_stage_2", devices=[0, 1], num_nodes=2)', (1, 4, 4)),
        ("L.Trainer(strategy=DeepSpeedStrategy(stage=1), devices=8)", (1, 1, 8)),
        ("torch.distributed.init_process_group('nccl', world_size=2); FSDP(model)", (2, 2, 2)),
        ("torch.distributed.init_device_mesh('cuda', (2, 3)); fully_shard(model)", (6, 6, 6)),
        ("torch.multiprocessing.spawn(main, nprocs=2); fully_shard(model, reshard_after_forward=False)", (1, 2, 2)),
        ("L.Trainer(devices=4)", (1, 1, 1)),
    ],
)
def test_a_rank_holds_its_share(tmp_path: Path, how: str, shares: tuple[int, int, int]) -> None:
    peak = estimate(_reading(tmp_path, _SHARDED.replace("HOW", how)))
    assert peak is not None
    assert peak.is_complete
    of_parameters, of_gradients, of_states = shares
    assert peak.parameters.likely == pytest.approx(_WHOLE / of_parameters)
    assert peak.gradients.likely == peak.temporary.likely == pytest.approx(_WHOLE / of_gradients)
    assert peak.optimizer.likely == pytest.approx(2 * _WHOLE / of_states)


@pytest.mark.parametrize(
    "how",
    [
        "FSDP(model)",
        'L.Trainer(strategy="fsdp")',
        'L.Trainer(strategy="deepspeed_stage_3_offload", devices=4)',
        "L.Trainer(strategy=DeepSpeedStrategy(offload_optimizer=True), devices=4)",
        "torch.distributed.init_process_group(world_size=4)\nFSDP(model, sharding_strategy=ShardingStrategy[NAME])",
    ],
)
def test_a_share_that_is_not_said_is_not_invented(tmp_path: Path, how: str) -> None:
    peak = estimate(_reading(tmp_path, _SHARDED.replace("HOW", how)))
    assert peak is not None
    assert not peak.is_complete


@pytest.mark.parametrize(
    ("model", "element", "copies"),
    [("GPT2LMHeadModel(config)", 4, 3), ("GPT2LMHeadModel(config).bfloat16()", 2, 6), ("GPT2Model(config)", 4, 0)],
)
def test_a_loss_computes_with_the_scores_of_all_words(tmp_path: Path, model: str, element: int, copies: int) -> None:
    lines = [
        "import torch",
        "from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Model",
        "from torch.utils.data import DataLoader",
        "config = GPT2Config()",
        f"model = {model}.cuda()",
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
        "tokenizer = AutoTokenizer.from_pretrained('gpt2')",
        "for text in DataLoader(texts, batch_size=2):",
        "    loss = model(**tokenizer(text, padding='max_length', max_length=512)).loss",
        "    loss.backward()",
        "    optimizer.step()",
    ]
    peak = estimate(_reading(tmp_path, "\n".join(lines)))
    assert peak is not None
    assert peak.is_complete
    assert peak.scores.likely == copies * element * 2 * 512 * 50257


_DEEPSPEED = """\
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
model = AutoModelForMaskedLM.from_pretrained("google-bert/bert-base-uncased")
args = TrainingArguments("out", per_device_train_batch_size=4, deepspeed="zero.json")
Trainer(model=model, args=args, train_dataset=data).train()
"""


def test_a_configuration_of_deepspeed_is_read(tmp_path: Path) -> None:
    zero = '{"stage": 2, "offload_optimizer": {"device": "cpu"}}'
    half = '"bf16": {"enabled": "auto"}, "fp16": {"enabled": true}'
    (tmp_path / "zero.json").write_text(f'{{"gradient_accumulation_steps": 8, "zero_optimization": {zero}, {half}}}')
    facts = _reading(tmp_path, _DEEPSPEED).facts
    assert {name: facts[name].value for name in ("batch", "accumulation", "stage")} == {
        "batch": 4,
        "accumulation": 8,
        "stage": 2,
    }
    assert "offload" in facts
    assert facts["precision"].value is None


def test_a_configuration_of_deepspeed_that_is_not_here_says_nothing(tmp_path: Path) -> None:
    reading = _reading(tmp_path, _DEEPSPEED)
    assert {"precision", "stage", "accumulation"} <= set(reading.unknown)


@pytest.mark.parametrize(("history", "state"), [("", 808), (", history_size=10", 88)])
def test_lbfgs_keeps_a_history(tmp_path: Path, history: str, state: float) -> None:
    lines = ["import torch", "net = torch.nn.Linear(2, 2)", f"step = torch.optim.LBFGS(net.parameters(){history})"]
    assert _reading(tmp_path, "\n".join(lines)).value("optimizer state") == state
