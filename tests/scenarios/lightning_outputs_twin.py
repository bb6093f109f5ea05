"""Lightning: metrics go to the logger, which detaches them."""

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 50))
        self.kept = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log("accuracy", (logits.argmax(dim=1) == y).float().mean())  # REFUTED MEM607 self.kept
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), foreach=False)


def main():
    data = TensorDataset(torch.randn(512, 64), torch.randint(50, (512,)))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), DataLoader(data, batch_size=32))


if __name__ == "__main__":
    main()
