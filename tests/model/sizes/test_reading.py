"""What a script trains, and how, is read with the line that says so."""

from __future__ import annotations

from pathlib import Path

from memlint.architectures import checkpoint_configuration, table
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


def test_a_default_configuration_is_not_taken_for_a_checkpoint_of_another_size() -> None:
    # The documentation of OPT names facebook/opt-350m beside defaults of 125 million parameters.
    assert checkpoint_configuration("facebook/opt-350m") is None
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
