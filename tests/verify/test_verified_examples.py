"""The examples under verify: what memlint reports there is what memory does."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e.programs import ROOT, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
]

EXAMPLES = {
    "hazards.py": ("hazards.py",),
    "lightning_module.py": ("lightning_module.py",),
    "accelerate_loop.py": ("accelerate_loop.py",),
    "hf_trainer.py": ("hf_trainer.py",),
    "multifile/train.py": ("-m", "multifile.train"),
}
NOT_ON_A_CPU = {"MEM801"}
"""Where a checkpoint that the script itself has written is loaded to shows on a GPU only."""


def missing(example: str) -> str | None:
    text = (ROOT / "examples" / example).read_text("utf-8")
    imported = re.findall(r"^(?:import|from) (lightning|accelerate|transformers)\b", text, re.MULTILINE)
    return next((name for name in imported if importlib.util.find_spec(name) is None), None)


@pytest.fixture(scope="module")
def verified() -> dict[str, Future[CompletedProcess[str]]]:
    """All of them, two at a time."""

    def verify(arguments: tuple[str, ...]) -> CompletedProcess[str]:
        command = (sys.executable, "-m", "memlint", "verify", "--isolated", "--output-format", "json")
        return run(*command, *arguments, cwd=ROOT / "examples", OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        return {name: pool.submit(verify, arguments) for name, arguments in EXAMPLES.items() if not missing(name)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_reported_is_confirmed(name: str, verified: dict[str, Future[CompletedProcess[str]]]) -> None:
    lacking = missing(name)
    if lacking:
        pytest.skip(f"needs {lacking}")
    process = verified[name].result()
    assert process.returncode == 1, process.stderr
    document = json.loads(process.stdout)
    reported = [each for each in document["findings"] if each["confidence"] != "possible"]
    assert reported
    wrong = {
        (each["code"], Path(each["filename"]).name, each["location"]["row"], each["verdict"], each["evidence"])
        for each in reported
        if each["verdict"] != ("INCONCLUSIVE" if each["code"] in NOT_ON_A_CPU else "CONFIRMED")
    }
    assert not wrong
