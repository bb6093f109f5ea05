"""What findings say stays alive: graph nodes, the tensor, a branch of the graph, or all activations."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlint.findings import Severity
from memlint.model.project import Project
from memlint.model.source_text import code
from tests.rules.programs import analysing_rules

PROGRAM = """
import torch
import torch.nn.functional as F
from torch import nn


def train(model: nn.Module, head: nn.Module, loader, optimizer, criterion):
    kept, total = [], 0.0
    for x, y in loader:
        features = model(x)
        loss = criterion(features, y)
        logged = F.mse_loss(head(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append(KEPT)
    print(len(kept))


def run(model, batch, criterion):
    return criterion(model(batch[0]), batch[1])


def fit(model: nn.Module, loader, criterion, optimizer, kept):
    for batch in loader:
        loss = run(model, batch, criterion)
        loss.backward()
        optimizer.step()


def evaluate(model: nn.Module, loader, criterion):
    kept = []
    for other in loader:
        kept.append(run(model, other, criterion))
    print(len(kept))


class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        h = self.project(x)
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        return h
"""

NODES = ("the autograd nodes of every iteration in host memory", Severity.WARNING, "host")
TENSOR = ("the tensor of every iteration, and its autograd nodes", Severity.ERROR, "device")
BRANCH = ("what autograd saved for this branch in every iteration", Severity.ERROR, "device")
ACTIVATIONS = ("every activation that autograd saved in the forward pass", Severity.ERROR, "device")


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("loss", NODES),
        ("2 * loss / 3", NODES),
        ("loss ** 2", NODES),
        ("features.mean()", NODES),
        ("features", TENSOR),
        ("features[:, 0]", TENSOR),
        ("features.norm(dim=1)", BRANCH),
        ("features * features", BRANCH),
        ("logged", BRANCH),
        ("model(x.flip(0))", ACTIVATIONS),
    ],
)
def test_findings_say_what_a_backward_has_freed(kept: str, expected: tuple[str, Severity, str]) -> None:
    assert _told(PROGRAM.replace("KEPT", kept), kept) == expected


def test_what_is_freed_for_one_caller_is_not_freed_for_another() -> None:
    assert _told(PROGRAM, "run(model, other, criterion)") == ACTIVATIONS


def test_who_hands_a_graph_to_callers_out_of_sight_cannot_tell_whether_they_free_it() -> None:
    phrase, _, _ = _told(PROGRAM, "h.mean(0)", length=38)
    assert phrase == "the autograd graph of every call: its "


def _told(text: str, kept: str, length: int | None = None) -> tuple[str, Severity, str]:
    """What is said of ``kept``: the beginning of the phrase, the severity, and in whose memory it is."""
    program = Project(Path("project"), ()).program(Path("project/train.py"), text)
    found = [each for rule in analysing_rules() if rule.code in {"MEM102", "MEM103"} for each in rule.check(program)]
    (finding,) = [each for each in found if code(each.node).endswith(kept)]
    assert finding.claim is not None
    phrases = [phrase for phrase, _, _ in (NODES, TENSOR, BRANCH, ACTIVATIONS) if finding.holds.startswith(phrase)]
    said = finding.holds[:length] if length else phrases[0]
    return said, finding.severity, finding.claim.memory
