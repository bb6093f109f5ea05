"""Distil a tiny BERT with the Hugging Face Trainer.

The models are built from configurations: nothing is downloaded. Run it with ``python examples/hf_trainer.py``.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

VOCABULARY, LENGTH, TOPICS = 96, 32, 4


class Topics(Dataset):
    """Token sequences that draw most of their tokens from the part of the vocabulary that belongs to their topic."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = VOCABULARY // TOPICS
        self.labels = torch.randint(TOPICS, (count,), generator=generator)
        topical = self.labels[:, None] * size + torch.randint(size, (count, LENGTH), generator=generator)
        anything = torch.randint(VOCABULARY, (count, LENGTH), generator=generator)
        self.tokens = torch.where(torch.rand(count, LENGTH, generator=generator) < 0.5, topical, anything)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


class DistillationTrainer(Trainer):
    """Learns from the labels and from a larger model, and remembers how hard each batch was."""

    def __init__(self, teacher: BertForSequenceClassification, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.teacher = teacher.to(self.args.device).eval()
        self.batch_losses: list[Tensor] = []
        self.agreements: list[float] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        teacher_logits = self.teacher(input_ids=inputs["input_ids"]).logits
        soft_loss = F.kl_div(outputs.logits.log_softmax(dim=1), teacher_logits.softmax(dim=1), reduction="batchmean")
        loss = outputs.loss + soft_loss
        self.batch_losses.append(F.cross_entropy(outputs.logits, inputs["labels"], reduction="none"))
        agreement = outputs.logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
        self.agreements.append(agreement.float().mean().item())
        return (loss, outputs) if return_outputs else loss


def make_bert(hidden: int, layers: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=LENGTH,
        num_labels=TOPICS,
    )
    return BertForSequenceClassification(config)


def make_arguments(folder: str, epochs: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def main() -> None:
    torch.manual_seed(0)
    train_set, test_set = Topics(512, seed=1), Topics(128, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        teacher = make_bert(hidden=64, layers=2)
        Trainer(model=teacher, args=make_arguments(folder, epochs=4), train_dataset=train_set).train()
        student = make_bert(hidden=32, layers=1)
        trainer = DistillationTrainer(
            teacher, model=student, args=make_arguments(folder, epochs=4), train_dataset=train_set
        )
        trainer.train()
    hardest = int(torch.stack([losses.mean() for losses in trainer.batch_losses]).argmax())
    print(f"the hardest batch was number {hardest}")
    print(f"agreement with the teacher, last batch: {trainer.agreements[-1]:.3f}")
    student.eval()
    with torch.no_grad():
        predicted = student(input_ids=test_set.tokens.to(student.device)).logits.argmax(dim=1).cpu()
    print(f"test accuracy {(predicted == test_set.labels).float().mean().item():.3f}")


if __name__ == "__main__":
    main()
