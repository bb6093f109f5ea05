"""The scores of a language model in bfloat16 are cast before the loss."""

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

TOKENS, WORDS = 64, 9000


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=WORDS, n_positions=TOKENS)
    model = GPT2LMHeadModel(config).bfloat16().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        ids = torch.randint(WORDS, (1, TOKENS), device=device)
        scores = model(ids).logits[0]  # CONFIRMED MEM110 device anything at peak
        wide = scores.float()  # CONFIRMED MEM403 device 64*9000*4 at peak
        F.cross_entropy(wide, ids[0]).backward()  # CONFIRMED MEM506 device anything at peak
        del scores, wide  # those of the next step are made without these
        optimizer.step()
        optimizer.zero_grad()


main()
