"""Small programs run on a GPU that is not there, and what they are found to hold."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from memlint.capacity.simulate.run import Prediction, simulate
from memlint.capacity.simulate.settings import Settings
from memlint.devices import device
from memlint.trace.events import Action, Recording
from memlint.trace.reading import read_trace
from tests.trace.conftest import RECORDED

ROOT = Path(__file__).parents[3]
KIB, MIB = 1 << 10, 1 << 20

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="runs scripts with torch")


def run(folder: Path, source: str, *arguments: str, **settings: object) -> Prediction:
    script = folder / "train.py"
    script.write_text(source, "utf-8")
    chosen = Settings(**{"device": device("A100-40GB"), "seconds": 120.0, **settings})  # type: ignore[arg-type]
    return simulate(str(script), arguments, chosen)


STEPS = """
import torch
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(4))).to("cuda")
optimizer = torch.optim.AdamW(model.parameters(){options})
for _ in range(5):
    x = torch.randn(256, 1024).cuda()
    loss = model(x).relu().sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert loss.item() == 1.0 and loss.device.type == "cuda" and torch.cuda.is_available()
"""
WEIGHTS = 4 * 1024 * 1024 * 4
CUBLAS = 2 * (8 * MIB + 128 * KIB)
"""One workspace for the thread that runs forward, one for that of the backward pass."""


def test_a_step_holds_weights_state_gradients_and_what_the_optimizer_needs_meanwhile(tmp_path: Path) -> None:
    # From 2.14 on cuBLAS has a workspace of its own, which the allocator does not see.
    prediction = run(tmp_path, STEPS.format(options=""), torch="2.13")
    sizes = prediction.by_category()
    assert (prediction.outcome.ending, prediction.outcome.steps) == ("stopped", 3)
    assert sizes["parameter"] == WEIGHTS
    assert sizes["optimizer_state"] == 2 * WEIGHTS
    assert sizes["gradient"] == WEIGHTS
    assert sizes["workspace"] == CUBLAS
    # The foreach implementation makes the square roots of all parameters before it uses the first one.
    assert sizes["temporary"] >= WEIGHTS
    assert prediction.peak_allocated <= prediction.peak_reserved
    assert prediction.fits
    lines = {(share.category, share.line) for share in prediction.by_line()}
    assert {("parameter", 3), ("gradient", 8), ("optimizer_state", 9)} <= lines


def test_the_fused_optimizer_needs_nothing_meanwhile(tmp_path: Path) -> None:
    foreach = run(tmp_path, STEPS.format(options=", foreach=True"))
    fused = run(tmp_path, STEPS.format(options=", fused=True"))
    assert foreach.peak_allocated - fused.peak_allocated >= WEIGHTS // 2


def test_a_model_larger_than_this_machine_is_measured(tmp_path: Path) -> None:
    source = """
import torch
model = torch.nn.ModuleList(torch.nn.Linear(32768, 32768, bias=False) for _ in range(64)).cuda()
x = torch.zeros(1, 32768, device="cuda")
with torch.inference_mode():
    for layer in model:
        x = layer(x)
"""
    prediction = run(tmp_path, source)
    assert prediction.by_category()["parameter"] == 64 * 32768 * 32768 * 4
    assert prediction.fits is False
    assert "train.py:3" in prediction.outcome.out_of_memory


VALUES = """
import torch
words = torch.tensor([[3, 5, 0], [7, 0, 0]]).to("cuda")
mask = words != 0
assert mask.sum().item() == 3 and not mask.all() and words.tolist() == [[3, 5, 0], [7, 0, 0]]
assert words[mask].shape == (3,) and mask.nonzero().shape == (3, 2)
weights = torch.nn.Linear(8, 8).cuda()
loss = weights(torch.ones(2, 8, device="cuda")).sum()
assert not torch.isnan(loss) and torch.isfinite(loss).all() and not torch.isnan(weights.weight).any()
moved = loss.cpu()
assert moved.device.type == "cpu" and moved.to("cuda").is_cuda and loss.to("cuda") is loss
assert torch.cuda.memory_allocated() > 0 and torch.cuda.get_device_name() == "NVIDIA A100-SXM4-40GB"
"""


def test_branches_go_where_the_data_lead(tmp_path: Path) -> None:
    outcome = run(tmp_path, VALUES).outcome
    assert (outcome.ending, outcome.error) == ("finished", "")


AUTOCAST = """
import sys, torch
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(2))).cuda()
x = torch.randn(512, 1024, device="cuda")
with torch.autocast("cuda", dtype=torch.bfloat16):
    y = model(x)
    assert y.dtype is torch.bfloat16 and torch.nn.functional.layer_norm(y, (1024,)).dtype is torch.float32
    assert y.softmax(-1).dtype is torch.float32 and torch.is_autocast_enabled("cuda")
    # CUDA has no rule for a cross-entropy: its logarithm keeps the type, and what reads that gets a copy.
    score = torch.nn.functional.cross_entropy(y, torch.zeros(512, dtype=torch.int64, device="cuda"))
    copied = score.grad_fn.next_functions[0][0]
    assert score.dtype is torch.float32 and copied.name() == "ToCopyBackward0"
    assert copied.next_functions[0][0].name() == "LogSoftmaxBackward0"
    del score, copied
    held = torch.cuda.memory_allocated()
    model(x)
    # Only the activations are new: the casts of the weights are kept until the region ends.
    grown = torch.cuda.memory_allocated() - held
held_after = torch.cuda.memory_allocated()
del y
assert grown <= 1024 * 1024, grown
before = torch.cuda.memory_allocated()
with torch.autocast("cuda", dtype=torch.bfloat16):
    loss = model(x).sum()
loss.backward()
# Gradients are converted to the type of the weights, and stay on the device.
assert torch.cuda.memory_allocated() - before >= 2 * 1024 * 1024 * 4, torch.cuda.memory_allocated() - before
half = torch.randn(4, 8, 128, 64, device="cuda", dtype=torch.float16, requires_grad=True)
before = torch.cuda.memory_allocated()
out = torch.nn.functional.scaled_dot_product_attention(half, half, half)
# Flash attention keeps its output and one number for each row, no matrix of scores.
assert torch.cuda.memory_allocated() - before < 2 * half.numel() * 2, torch.cuda.memory_allocated() - before
"""


def test_autocast_and_attention_choose_what_cuda_would(tmp_path: Path) -> None:
    outcome = run(tmp_path, AUTOCAST).outcome
    assert (outcome.ending, outcome.error) == ("finished", "")


CHECKPOINT = """
import sys, torch
from torch.utils.checkpoint import checkpoint
def block():
    return torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))
model = torch.nn.ModuleList(block() for _ in range(6)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x = torch.randn(4096, 512, device="cuda")
    for block in model:
        x = x + (checkpoint(block, x, use_reentrant=False) if sys.argv[1] == "yes" else block(x))
    x.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def test_checkpointing_trades_activations_for_a_second_forward(tmp_path: Path) -> None:
    plain, saved = run(tmp_path, CHECKPOINT, "no"), run(tmp_path, CHECKPOINT, "yes")
    assert saved.outcome.ending == plain.outcome.ending == "stopped"
    # Each block saves its hidden layer before and after the activation: 64 MiB. One block's are made again at a time,
    # together with their gradient.
    assert 4 * 64 * MIB < plain.peak_allocated - saved.peak_allocated < 6 * 64 * MIB


FORWARDS = """
import sys, torch
model = torch.nn.Linear(10000, 50000, device="cuda")
with torch.set_grad_enabled(sys.argv[1] == "with"):
    for _ in range(3):
        x = torch.randn(5000, 10000, device="cuda")
        y = model(x)
"""


@pytest.mark.parametrize("gradients", ["no", "with"])
def test_a_recorded_run_is_reproduced_block_by_block(tmp_path: Path, gradients: str) -> None:
    """Recorded on an H100: every request in its order, and the segments that they led to."""
    path = RECORDED / f"forward_{gradients}_grad.pickle"
    if not path.exists():
        pytest.skip("the recorded traces are not here")
    recorded = read_trace(path)
    prediction = run(tmp_path, FORWARDS, gradients, device=device("H100-80GB"))
    assert prediction.recording is not None
    assert prediction.peak_reserved == sum(segment.total_size for segment in recorded.segments)
    assert requests(prediction.recording) == requests(recorded)


def requests(recording: Recording) -> list[int]:
    """What was asked for, in order."""
    return [event.requested_bytes or 0 for event in recording.events if event.action is Action.ALLOCATE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library"),
    [("lightning_module", "lightning"), ("accelerate_loop", "accelerate"), ("hf_trainer", "transformers")],
)
def test_frameworks_take_the_device_for_a_gpu(name: str, library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    prediction = simulate(str(ROOT / "examples" / f"{name}.py"), (), Settings(seconds=240.0))
    assert (prediction.outcome.ending, prediction.outcome.steps) == ("stopped", 3)
    assert prediction.by_category()["parameter"] > 0


def test_a_script_that_fails_says_where(tmp_path: Path) -> None:
    prediction = run(tmp_path, "import torch\nx = torch.zeros(3, device='cuda')\nraise ValueError('no data')\n")
    assert (prediction.outcome.ending, prediction.outcome.error) == ("raised", "ValueError: no data")
    assert prediction.outcome.error_place.endswith("train.py:3")
    assert not prediction.is_known
    assert prediction.fits is None


def test_a_run_that_fails_before_the_second_step_does_not_say_that_it_fits(tmp_path: Path) -> None:
    failing = STEPS.format(options="").replace("    optimizer.step()", "    raise ValueError('no data')")
    prediction = run(tmp_path, failing)
    assert prediction.is_known
    assert prediction.fits is None
    assert run(tmp_path, failing, device=device("8MiB")).fits is False


def test_what_would_be_compiled_runs_as_it_is(tmp_path: Path) -> None:
    compiling = STEPS.replace(
        "optimizer =", "model = torch.compile(model, mode='max-autotune'); model.compile(); optimizer ="
    )
    prediction = run(tmp_path, compiling.format(options=""))
    assert prediction.peak_allocated == run(tmp_path, STEPS.format(options="")).peak_allocated
    assert [note for note in prediction.outcome.notes if "torch.compile" in note]


def test_numbers_are_formatted_as_numbers(tmp_path: Path) -> None:
    source = "import torch\nx = torch.ones(3, device='cuda').sum()\nassert f'{x:.2f} {x}'.split()[0].count('.') == 1\n"
    assert run(tmp_path, source).outcome.error == ""


def test_files_that_were_there_are_not_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "model.pt"
    kept.write_text("a checkpoint of an earlier training")
    source = f"""
import torch
model = torch.nn.DataParallel(torch.nn.Linear(8, 8)).cuda()
with open({str(kept)!r}, "wb") as file:
    torch.save(model, file)
with open({str(kept)!r}, "rb") as file:
    assert torch.load(file) is model and torch.load({str(kept)!r}) is model
assert model(torch.ones(2, 8)).device.type == "cuda"
"""
    outcome = run(tmp_path, source).outcome
    assert outcome.error == ""
    assert kept.read_text() == "a checkpoint of an earlier training"
    assert [note for note in outcome.notes if note.startswith(str(kept))]


GRADIENTS = """
import torch
table = torch.nn.Parameter(torch.empty(1024, 512, device="cuda"))
weight = torch.nn.Parameter(torch.empty(512, 512, device="cuda"))
x = table[torch.arange(16, device="cuda")]
torch.einsum("bi,oi->bo", x, weight).sum().backward()
before = torch.cuda.memory_allocated()
table.grad = weight.grad = None
assert before - torch.cuda.memory_allocated() == 4 * (1024 * 512 + 512 * 512)
"""


def test_gradients_that_are_copied_into_the_layout_of_their_parameter_lie_on_the_device(tmp_path: Path) -> None:
    outcome = run(tmp_path, GRADIENTS).outcome
    assert (outcome.ending, outcome.error) == ("finished", "")


RECURRENT = """
import torch
layers = torch.nn.LSTM(128, 256, 2, batch_first=True).cuda()
optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
for _ in range(4):
    output, _ = layers(torch.zeros(16, 100, 128).cuda())
    output.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def test_recurrent_layers_keep_what_cudnn_keeps(tmp_path: Path) -> None:
    prediction = run(tmp_path, RECURRENT)
    assert (prediction.outcome.ending, prediction.outcome.error) == ("stopped", "")
    one = 16 * 100 * 256 * 4
    # Five elements for each layer and the output of the first one, beside the operator's result.
    assert (5 * 2 + 1 + 1) * one <= prediction.by_category()["activation"] < (5 * 2 + 1 + 3) * one
    assert prediction.by_category()["gradient"] >= prediction.by_category()["parameter"]
