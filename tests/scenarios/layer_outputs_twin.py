"""The encoder returns its last hidden state alone."""

import torch
from transformers import BertConfig, BertModel

LAYERS, TOKENS, WIDTH = 3, 64, 32


def main():
    config = BertConfig(
        num_hidden_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    model = BertModel(config).eval()
    means = []
    with torch.no_grad():
        for _ in range(6):
            ids = torch.randint(100, (4, TOKENS))
            output = model(ids)  # REFUTED MEM505
            means.append(output.last_hidden_state[:, 0].mean().item())
    print(sum(means))


main()
