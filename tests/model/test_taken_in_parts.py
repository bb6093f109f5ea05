"""Loops that step once for several backwards, and loops that look alike."""

from __future__ import annotations

import ast

import pytest

from memlint.model.taken_in_parts import Calls, accumulates, takes_batches_apart

_WAITING = {
    "counter": """
for x in loader:
    loss = model(x)
    loss.backward()
    waiting += 1
    if waiting == 4:
        optimizer.step()
        optimizer.zero_grad()
        waiting = 0
""",
    "helper": """
def update():
    optimizer.step()
    optimizer.zero_grad()
for i, x in enumerate(loader):
    with autocast():
        loss = model(x)
        loss.backward()
        if last(i):
            update()
""",
    "continue": """
for i, x in enumerate(loader):
    model(x).backward()
    if not last(i):
        continue
    optimizer.step()
    optimizer.zero_grad()
""",
    "epoch": """
for epoch in range(3):
    for x in loader:
        model(x).backward()
    optimizer.step()
""",
}
_PARTS = {
    "split": """
for batch in loader:
    for part in batch.split(4):
        loss = model(part)
        loss.backward()
    optimizer.step()
""",
    "helper": """
def run(part):
    model(part).backward()
for batch in loader:
    for part in batch.chunk(4):
        run(part)
    optimizer.step()
""",
}
_OTHERS = {
    "nan": """
for x in loader:
    loss = model(x)
    loss.backward()
    if torch.isnan(loss):
        optimizer.zero_grad()
        continue
    optimizer.step()
    optimizer.zero_grad()
""",
    "scaler": """
for x in loader:
    loss = model(x)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    if amp:
        scaler.step(optimizer)
    else:
        optimizer.step()
""",
    "losses": """
for x in loader:
    optimizer.zero_grad()
    for loss in model(x):
        loss.backward(retain_graph=True)
    optimizer.step()
""",
    "critic": """
for x in loader:
    for _ in range(5):
        d.zero_grad()
        critic(x).backward()
        d.step()
    g.zero_grad()
    generate(x).backward()
    g.step()
""",
    "scheduler": """
for epoch in range(3):
    for x in loader:
        model(x).backward()
        optimizer.step()
        optimizer.zero_grad()
        if x.step % 10 == 0:
            scheduler.step()
    scheduler.step()
""",
    "phase": """
for x in loader:
    loss = model(x)
    if phase == "train":
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
}


@pytest.mark.parametrize("text", _WAITING.values(), ids=_WAITING)
def test_a_step_waits_for_several_backwards(text: str) -> None:
    assert accumulates(_calls(text))
    assert not takes_batches_apart(_calls(text))


@pytest.mark.parametrize("text", _PARTS.values(), ids=_PARTS)
def test_a_batch_is_taken_apart(text: str) -> None:
    assert accumulates(_calls(text))
    assert takes_batches_apart(_calls(text))


@pytest.mark.parametrize("text", _OTHERS.values(), ids=_OTHERS)
def test_each_batch_is_taken_as_a_whole(text: str) -> None:
    assert not accumulates(_calls(text))
    assert not takes_batches_apart(_calls(text))


def _calls(text: str) -> Calls:
    return Calls(list(ast.walk(ast.parse(text))))
