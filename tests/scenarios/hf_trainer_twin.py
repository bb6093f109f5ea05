"""HF Trainer: the losses are kept as numbers."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class LossCurve(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.curve = []

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        self.curve.append(outputs.loss.item())  # REFUTED MEM102 self.curve
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def main():
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=100, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    tokens = torch.randint(100, (64, 16))
    data = [dict(input_ids=row, labels=row) for row in tokens]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            num_train_epochs=2,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        LossCurve(GPT2LMHeadModel(config), arguments, train_dataset=data).train()


if __name__ == "__main__":
    main()
