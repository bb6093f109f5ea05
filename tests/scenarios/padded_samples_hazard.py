"""Each sample is padded to the longest length that is allowed, and autograd saves what is computed for padding."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = "the model reads a short text and learns from it".split()


def main():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["<pad>", *WORDS])}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")

    def collate(texts):
        # CONFIRMED MEM302 device 4 * (128 - 10) * (2 * (4 * (9 * 32 + 2 * 128)) + 4 * 32) at peak
        return tokenizer(texts, padding="max_length", max_length=128, return_tensors="pt")

    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        vocab_size=11,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in DataLoader([" ".join(WORDS)] * 32, batch_size=4, collate_fn=collate):
        model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


main()
