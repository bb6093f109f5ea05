"""A training program in three files: what a line here holds can only be seen by reading the other two.

Run it inside ``examples/`` with ``python -m multifile.train``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from signals import CHANNELS, REGIMES, make_loader
from torch.utils.data import DataLoader

from .meters import AverageMeter, Recorder
from .models import RegimeClassifier


def train_epoch(
    model: RegimeClassifier, optimizer: torch.optim.Optimizer, loader: DataLoader, losses: AverageMeter, run: Recorder
) -> None:
    device = next(model.parameters()).device
    hits = AverageMeter()
    model.train()
    for signal, regime in loader:
        signal, regime = signal.to(device), regime.to(device)
        logits, features = model(signal)
        loss = F.cross_entropy(logits, regime)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss, len(regime))
        hits.update((logits.argmax(dim=1) == regime).float().mean().item(), len(regime))
        run.add("feature norm", features.norm(dim=1))
    run.add("training accuracy", hits.average)


def validate(model: RegimeClassifier, loader: DataLoader) -> float:
    """The mean loss; callers switch gradients off."""
    device = next(model.parameters()).device
    losses = AverageMeter()
    model.eval()
    for signal, regime in loader:
        logits, _ = model(signal.to(device))
        losses.update(F.cross_entropy(logits, regime.to(device)), len(regime))
    return losses.average


def compare_on_noise(model: RegimeClassifier, loader: DataLoader, scale: float) -> float:
    """The share of predictions that survive noise of the given scale."""
    device = next(model.parameters()).device
    kept = AverageMeter()
    model.eval()
    for signal, _ in loader:
        signal = signal.to(device)
        logits, _ = model(signal)
        noisy_logits, _ = model(signal + scale * torch.randn_like(signal))
        kept.update((logits.argmax(dim=1) == noisy_logits.argmax(dim=1)).float().mean().item(), len(signal))
    return kept.average


def main() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RegimeClassifier(CHANNELS, REGIMES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    train_loader, test_loader = make_loader(512, seed=1, shuffle=True), make_loader(256, seed=2)
    run = Recorder()
    for epoch in range(2):
        losses = AverageMeter()
        train_epoch(model, optimizer, train_loader, losses, run)
        with torch.no_grad():
            validation_loss = validate(model, test_loader)
        print(f"epoch {epoch}: training loss {losses.average:.4f}, validation loss {validation_loss:.4f}")
    print(f"predictions that survive noise: {compare_on_noise(model, test_loader, scale=0.1):.3f}")


if __name__ == "__main__":
    main()
