"""Each sample is padded to the longest of its batch, so that no position is padding in all of them."""

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
        # REFUTED MEM302
        return tokenizer(texts, padding=True, return_tensors="pt")

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
