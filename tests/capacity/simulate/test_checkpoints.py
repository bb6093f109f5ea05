"""Models that come with weights are built without them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from memlint.capacity.simulate.run import simulate
from memlint.capacity.simulate.settings import Settings

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="runs scripts with transformers")

SCRIPT = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("EleutherAI/pythia-14m")
texts = tokenizer(["one two", "three"], padding="max_length", max_length=8, return_tensors="pt")
assert len(tokenizer) == 50304 and texts["input_ids"].shape == (2, 8) and texts["attention_mask"].sum() == 3
model = AutoModelForCausalLM.from_pretrained("EleutherAI/pythia-14m", dtype=torch.bfloat16, device_map="auto")
assert not model.training and model.device.type == "cuda" and model.dtype is torch.bfloat16
assert sum(each.numel() for each in model.parameters()) == 14_067_712
scores = AutoModelForSequenceClassification.from_pretrained("distilbert-base-uncased", num_labels=3)
assert scores.classifier.out_features == 3 and scores.device.type == "cpu"
words = torch.ones(2, 16, dtype=torch.long, device="cuda")
model(input_ids=words, labels=words).loss.backward()
torch.nn.Linear(2, 2).load_state_dict(torch.hub.load_state_dict_from_url("https://example.org/weights.pt")["model"])
"""


@pytest.mark.slow
def test_a_checkpoint_that_is_not_here_is_built_from_the_table(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, "utf-8")
    prediction = simulate(str(script), (), Settings(seconds=240.0))
    assert (prediction.outcome.ending, prediction.outcome.error) == ("finished", "")
    assert prediction.by_category()["parameter"] >= 2 * 14_067_712
    said = "EleutherAI/pythia-14m is not on this machine: its configuration is that of memlint's table"
    assert said in prediction.outcome.notes
    assert any(
        "the tokenizer of EleutherAI/pythia-14m is not on this machine" in note for note in prediction.outcome.notes
    )


PIPELINE = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("runwayml/stable-diffusion-v1-5", torch_dtype=torch.float16).to("cuda")
sizes = {name: sum(each.numel() for each in getattr(pipeline, name).parameters()) for name in ("unet", "text_encoder")}
assert sizes == {"unet": 859_520_964, "text_encoder": 123_060_480}, sizes
assert pipeline.unet.device.type == "cuda" and pipeline.unet.dtype is torch.float16
pipeline.text_encoder(pipeline.tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids.cuda())
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("diffusers") is None, reason="runs a script with diffusers")
def test_a_pipeline_that_is_not_here_is_built_from_the_table(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PIPELINE, "utf-8")
    outcome = simulate(str(script), (), Settings(seconds=240.0)).outcome
    assert (outcome.ending, outcome.error) == ("finished", "")
    assert any("the parts of its StableDiffusionPipeline" in note for note in outcome.notes)
