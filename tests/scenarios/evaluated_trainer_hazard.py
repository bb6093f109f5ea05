"""HF Trainer: the evaluation keeps the logits of every batch on the device, for the sake of compute_metrics."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main():
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=100, n_positions=32)
    data = [dict(input_ids=row, labels=row) for row in torch.randint(100, (48, 16))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            num_train_epochs=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = GPT2LMHeadModel(config)
        # CONFIRMED MEM605 device 4 * 16 * 100 * 4 per execution
        trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=accuracy)
        trainer.train()
        trainer.evaluate()


if __name__ == "__main__":
    main()
