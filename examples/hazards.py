"""Distil a large classifier of sensor recordings into a small one, then train a detector for endless streams.

Run it with ``python examples/hazards.py``. The program learns its task, and it wastes memory in every stage:
``memlint check examples/hazards.py`` finds the places, and ``clean.py`` is the same program without them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from signals import CHANNELS, REGIMES, make_loader, make_signals
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Classifier(nn.Module):
    """Temporal convolutions with residual connections, averaged over time."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, kernel_size=5, padding=2)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, kernel_size=5, padding=2) for _ in range(depth))
        self.head = nn.Linear(width, REGIMES)
        self.register_buffer("feature_spread", torch.zeros(width))

    def forward(self, signal: Tensor) -> Tensor:
        """Logits of shape ``(batch, REGIMES)`` for ``signal`` of shape ``(batch, CHANNELS, samples)``."""
        features = F.gelu(self.stem(signal))
        for block in self.blocks:
            features = features + F.gelu(block(features))
        if self.training:
            spread = features.std(dim=(0, 2))
            self.feature_spread = 0.9 * self.feature_spread + 0.1 * spread
        return self.head(features.mean(dim=2))


class StreamDetector(nn.Module):
    """A recurrent classifier that reads a recording chunk by chunk."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(CHANNELS, width, batch_first=True)
        self.head = nn.Linear(width, REGIMES)

    def forward(self, chunk: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of shape ``(batch, REGIMES)`` after ``chunk``, and the state to pass on with the next chunk."""
        features, state = self.rnn(chunk.transpose(1, 2), state)
        return self.head(features[:, -1]), state


def train_teacher(teacher: Classifier, loader: DataLoader, epochs: int, checkpoint: Path, device: torch.device) -> None:
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=5e-3)
    teacher.train()
    for _ in range(epochs):
        for signal, regime in loader:
            optimizer.zero_grad(set_to_none=False)
            loss = F.cross_entropy(teacher(signal.to(device)), regime.to(device))
            loss.backward()
            optimizer.step()
    torch.save({"model": teacher.state_dict(), "epochs": epochs}, checkpoint)


def load_teacher(checkpoint: Path, device: torch.device) -> Classifier:
    state = torch.load(checkpoint)
    teacher = Classifier(width=64, depth=3)
    teacher.load_state_dict(state["model"])
    return teacher.to(device).eval()


def distil(teacher: Classifier, student: Classifier, loader: DataLoader, epochs: int, device: torch.device) -> None:
    """Trains ``student`` on the labels and on the teacher's softened predictions."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for epoch in range(epochs):
        student.train()
        epoch_loss = torch.zeros((), device=device)
        epoch_logits = []
        epoch_regimes = []
        for signal, regime in loader:
            signal, regime = signal.to(device), regime.to(device)
            teacher_logits = teacher(signal)
            student_logits = student(signal)
            hard_loss = F.cross_entropy(student_logits, regime)
            soft_loss = F.kl_div(
                F.log_softmax(student_logits / 2, dim=1), F.softmax(teacher_logits / 2, dim=1), reduction="batchmean"
            )
            hard_loss.backward(retain_graph=True)
            soft_loss.backward(retain_graph=True)
            optimizer.step()
            optimizer.zero_grad()
            epoch_loss += hard_loss + soft_loss
            epoch_logits.append(student_logits.cpu())
            epoch_regimes.append(regime.cpu())
        accuracy = (torch.cat(epoch_logits).argmax(dim=1) == torch.cat(epoch_regimes)).float().mean().item()
        print(f"epoch {epoch}: loss {epoch_loss.item() / len(loader):.4f}, training accuracy {accuracy:.3f}")


def evaluate(model: Classifier, loader: DataLoader, device: torch.device) -> float:
    """The share of recordings whose regime is predicted correctly."""
    model.eval()
    correct = seen = 0
    for signal, regime in loader:
        logits = model(signal.to(device))
        correct += (logits.argmax(dim=1) == regime.to(device)).sum().item()
        seen += len(regime)
    return correct / seen


@torch.no_grad()
def predict(model: Classifier, loader: DataLoader, device: torch.device) -> Tensor:
    """Probabilities of every recording, of shape ``(recordings, REGIMES)``."""
    model.eval()
    predictions = []
    for signal, _ in loader:
        predictions.append(model(signal.to(device)).softmax(dim=1))
    return torch.cat(predictions)


def show_likely_regimes(model: Classifier, signal: Tensor) -> None:
    torch.no_grad()
    probabilities, regimes = model(signal[None]).softmax(dim=1).topk(3)
    for probability, regime in zip(probabilities[0], regimes[0]):
        print(f"  regime {regime.item()}: {probability.item():.3f}")


def calibrate(model: Classifier, loader: DataLoader, device: torch.device) -> float:
    """Fits the temperature that makes the model's probabilities match its accuracy."""
    temperature = nn.Parameter(torch.ones((), device=device))
    optimizer = torch.optim.SGD([temperature], lr=0.1)
    for signal, regime in loader:
        with torch.no_grad():
            logits = model(signal.to(device))
        loss = F.cross_entropy(logits / temperature, regime.to(device))
        loss.backward()
        optimizer.step()
    return temperature.item()


def train_detector(detector: StreamDetector, streams: DataLoader, device: torch.device) -> float:
    """Trains on whole recordings, one optimizer step each; returns the last loss."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    for stream, regime in streams:
        optimizer.zero_grad()
        state = None
        for chunk in stream.to(device).split(64, dim=2):
            logits, state = detector(chunk, state)
            loss = F.cross_entropy(logits, regime.to(device))
            loss.backward(retain_graph=True)
        optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a classifier of sensor recordings.")
    parser.add_argument("--recordings", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader = make_loader(options.recordings, seed=1, shuffle=True)
    test_loader = make_loader(options.recordings // 2, seed=2)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "teacher.pt"
        train_teacher(Classifier(width=64, depth=3).to(device), train_loader, options.epochs, checkpoint, device)
        teacher = load_teacher(checkpoint, device)

    student = Classifier(width=32, depth=2).to(device)
    distil(teacher, student, train_loader, options.epochs, device)
    print(f"test accuracy {evaluate(student, test_loader, device):.3f}")
    probabilities = predict(student, test_loader, device)
    print(f"mean confidence {probabilities.max(dim=1).values.mean().item():.3f}")
    show_likely_regimes(student, make_signals(1, seed=3)[0][0].to(device))
    print(f"temperature {calibrate(student, test_loader, device):.3f}")

    streams = DataLoader(make_signals(options.recordings // 4, seed=4, samples=512), batch_size=32)
    print(f"detector loss {train_detector(StreamDetector(width=64).to(device), streams, device):.4f}")


if __name__ == "__main__":
    main()
