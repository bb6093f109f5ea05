"""A classifier of sensor recordings as a LightningModule.

Run it with ``python examples/lightning_module.py``.
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from signals import CHANNELS, REGIMES, make_loader
from torch import Tensor, nn


class SignalClassifier(L.LightningModule):
    """Reports the usual losses step by step, and two figures that need the whole epoch."""

    def __init__(self, width: int = 32, learning_rate: float = 5e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            nn.Conv1d(CHANNELS, width, kernel_size=5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=5, padding=2),
            nn.GELU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(width, REGIMES),
        )
        self.train_logits: list[Tensor] = []
        self.validation_logits: list[Tensor] = []
        self.test_hits: list[Tensor] = []

    def forward(self, signal: Tensor) -> Tensor:
        return self.network(signal)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        signal, regime = batch
        logits = self(signal)
        loss = F.cross_entropy(logits, regime)
        self.log("train_loss", loss)
        self.train_logits.append(logits)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train_confidence", torch.cat(self.train_logits).softmax(dim=1).amax(dim=1).mean())
        self.train_logits.clear()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        signal, regime = batch
        logits = self(signal)
        self.log("validation_loss", F.cross_entropy(logits, regime))
        self.validation_logits.append(logits)

    def on_validation_epoch_end(self) -> None:
        self.log("validation_confidence", torch.cat(self.validation_logits).softmax(dim=1).amax(dim=1).mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        signal, regime = batch
        self.test_hits.append(self(signal).argmax(dim=1) == regime)

    def on_test_epoch_end(self) -> None:
        self.log("test_accuracy", torch.cat(self.test_hits).float().mean())
        self.test_hits.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def main() -> None:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = SignalClassifier()
    trainer.fit(model, make_loader(512, seed=1, shuffle=True), make_loader(256, seed=2))
    trainer.test(model, make_loader(256, seed=3))


if __name__ == "__main__":
    main()
