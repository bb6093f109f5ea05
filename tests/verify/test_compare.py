"""The script against its copy with fixes: which fix changes the training, found without running anything."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memlint.diagnostics import Diagnostic, Location
from memlint.findings import Confidence, Severity
from memlint.report.verification.comparison import Tone, comparison_lines
from memlint.trace.events import Origin, Recording
from memlint.verify import compare as module
from memlint.verify.compare import compare
from memlint.verify.culprits import find_culprits
from memlint.verify.fixed import FixedFile
from memlint.verify.launch import Outcome, Program
from memlint.verify.observations import Observations
from memlint.verify.plan import Budget


def finding(code: str, row: int = 1, path: Path = Path("/p/train.py")) -> Diagnostic:
    place = Location(row, 1)
    return Diagnostic(code, "name", "message", path, place, place, Severity.ERROR, Confidence.CERTAIN, "", (), row, "")


FIXED = [finding(f"MEM{number}") for number in range(101, 109)]


@pytest.mark.parametrize("number", range(len(FIXED)))
def test_the_one_fix_that_changes_the_losses_is_found(number: int) -> None:
    runs: list[Sequence[Diagnostic]] = []

    def agrees(without: Sequence[Diagnostic]) -> bool:
        runs.append(without)
        return FIXED[number] in without

    assert find_culprits(FIXED, (), agrees) == (FIXED[number],)
    assert len(runs) <= 4


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_correction_is_tried_first_and_stays_left_out(number: int) -> None:
    correction, other = FIXED[5], FIXED[number]
    assert find_culprits(FIXED, [correction], lambda without: correction in without) == (correction,)
    both = find_culprits(FIXED, [correction], lambda without: {correction, other} <= set(without))
    assert both == (correction, other)


def test_of_two_that_change_them_none_is_accused() -> None:
    for one, other in itertools.combinations(FIXED, 2):
        assert find_culprits(FIXED, (), lambda without, two={one, other}: two <= set(without)) == ()  # type: ignore[misc]


LINES = {"MEM101": "total += loss.detach()", "MEM201": "optimizer.zero_grad()", "MEM601": "with torch.no_grad():"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose runs have the losses that its text stands for."""
    (tmp_path / "project").mkdir()
    path = tmp_path / "project" / "train.py"
    path.write_text("as it is\n")

    def run_program(program: Program, *_: object, **__: object) -> Outcome:
        text = Path(program.target).read_text("utf-8")
        losses = [1.0, 0.5, 0.25 if LINES["MEM201"] in text else 0.75, 0.125 if LINES["MEM601"] in text else 0.0]
        seen = Observations(has_torch=True, steps=4, losses=[each.hex() for each in losses])
        return Outcome(seen, Recording(Origin.CPU_RECORDER, []))

    monkeypatch.setattr(module, "run_program", run_program)
    return path


def compared(path: Path, codes: Sequence[str], corrections: dict[str, str]) -> Any:
    def versions(*, without: Sequence[Diagnostic] = ()) -> list[FixedFile]:
        fixed = [finding(code, path=path) for code in codes if code not in {each.code for each in without}]
        text = "".join(f"{LINES[each.code]}\n" for each in fixed)
        return [FixedFile(path, path.read_bytes(), text.encode(), tuple(fixed), ())]

    said: list[str] = []
    program = Program(str(path), False, ())
    found = compare(
        program, path.parent, versions, Budget(), Observations(steps=4), corrections=corrections, say=said.append
    )
    assert found is not None
    assert path.read_text() == "as it is\n"
    return found, list(comparison_lines(found)), said


def test_equal_losses_need_no_further_run(project: Path) -> None:
    found, lines, said = compared(project, ["MEM101"], {})
    # The copy as it is has 0.75 and 0.0 as well.
    assert found.same_losses
    assert ("  losses                all 4 agree bit for bit", Tone.GOOD) in lines
    assert len(said) == 1


def test_a_correction_is_named_and_does_not_alarm(project: Path) -> None:
    found, lines, _ = compared(project, ["MEM101", "MEM201"], {"MEM201": "each step uses its own gradients"})
    assert [each.diagnostic.code for each in found.culprits] == ["MEM201"]
    losses = [line for line in lines if "losses" in line.text or "MEM" in line.text]
    assert [line.tone for line in losses] == [Tone.NOTE, Tone.NOTE]
    assert "3 of 4 agree bit for bit" in losses[0].text
    assert losses[1].text.endswith("corrects the training: each step uses its own gradients")


def test_what_was_to_keep_the_numbers_alarms(project: Path) -> None:
    found, lines, _ = compared(project, ["MEM101", "MEM201", "MEM601"], {"MEM201": "each step uses its own gradients"})
    assert [each.diagnostic.code for each in found.culprits] == ["MEM201", "MEM601"]
    alarms = [line.text for line in lines if line.tone is Tone.ALARM and "TRAINING" in line.text]
    assert len(alarms) == 2, lines
    assert "MEM601" in alarms[1]
