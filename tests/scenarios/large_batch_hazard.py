"""A step needs more memory than the device that is configured has; a smaller batch would fit."""

# device: 72MiB
import tempfile

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = "the model reads a text and learns from every word of it".split() * 12


def main():
    vocabulary = {word: number for number, word in enumerate(["<pad>", *sorted(set(WORDS))])}
    words = Tokenizer(models.WordLevel(vocabulary, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)

    texts = [" ".join(WORDS)] * 256
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=128, return_tensors="pt")["input_ids"]
    config = GPT2Config(
        n_layer=4,
        n_head=2,
        n_embd=64,
        vocab_size=100,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)  # CONFIRMED MEM511 device anything at peak
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # CONFIRMED MEM303 device 4096 * (4 * (4 * (9 * 64 + 2 * 256) + 2 * 64) + 330 * 4 + 2 * 64 * 4) + 272000 * 4 at peak
    # CONFIRMED MEM311 device 4096 * (4 * (4 * (9 * 64 + 2 * 256) + 2 * 64) + 330 * 4 + 2 * 64 * 4) + 272000 * 4 at peak
    for (batch,) in DataLoader(TensorDataset(tokens), batch_size=32):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


main()
