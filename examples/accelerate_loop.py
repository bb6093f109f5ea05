"""A training loop on Accelerate, with gradient accumulation and a checkpoint to resume from.

Run it with ``python examples/accelerate_loop.py`` or ``accelerate launch examples/accelerate_loop.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from signals import CHANNELS, REGIMES, make_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader


def make_model(width: int = 32) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(CHANNELS, width, kernel_size=5, padding=2),
        nn.GELU(),
        nn.Conv1d(width, width, kernel_size=5, padding=2),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(width, REGIMES),
    )


def train_epoch(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader
) -> tuple[float, float]:
    """One epoch; returns the mean loss and the smoothed loss at its end."""
    model.train()
    total_loss = torch.zeros((), device=accelerator.device)
    smoothed_loss = torch.zeros((), device=accelerator.device)
    for signal, regime in loader:
        with accelerator.accumulate(model):
            loss = F.cross_entropy(model(signal), regime)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total_loss += loss.detach().float()
        smoothed_loss = 0.9 * smoothed_loss + 0.1 * loss
    return total_loss.item() / len(loader), smoothed_loss.item()


@torch.no_grad()
def predict(accelerator: Accelerator, model: nn.Module, loader: DataLoader) -> tuple[Tensor, Tensor]:
    """Probabilities of shape ``(recordings, REGIMES)`` and the true regimes, from all processes."""
    model.eval()
    probabilities, regimes = [], []
    for signal, regime in loader:
        probability, regime = accelerator.gather_for_metrics((model(signal).softmax(dim=1), regime))
        probabilities.append(probability)
        regimes.append(regime.cpu())
    return torch.cat(probabilities), torch.cat(regimes)


def resume(checkpoint: Path) -> nn.Module:
    model = make_model()
    model.load_state_dict(torch.load(checkpoint))
    return model


def main() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    set_seed(0)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model, optimizer, train_loader, test_loader = accelerator.prepare(
        model, optimizer, make_loader(512, seed=1, shuffle=True), make_loader(256, seed=2)
    )
    for epoch in range(2):
        mean_loss, smoothed_loss = train_epoch(accelerator, model, optimizer, train_loader)
        accelerator.print(f"epoch {epoch}: loss {mean_loss:.4f}, at the end {smoothed_loss:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        accelerator.save(accelerator.get_state_dict(model), checkpoint)
        accelerator.wait_for_everyone()
        resumed = accelerator.prepare(resume(checkpoint))
    probabilities, regimes = predict(accelerator, resumed, test_loader)
    accelerator.print(f"test accuracy {(probabilities.argmax(dim=1).cpu() == regimes).float().mean().item():.3f}")


if __name__ == "__main__":
    main()
