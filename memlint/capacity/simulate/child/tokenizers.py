"""Tokenizers of checkpoints that are not on this machine and cannot be had: words for tokens, as many as it knows.

What a batch of texts takes depends on its length. A script that pads to a maximum has the right one all the same;
others get a token for each word, and the run says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from memlint.architectures import checkpoints
from memlint.capacity.simulate.child.on_disk import is_on_disk
from memlint.verify.child.script import after_import

_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_FEW = 64
"""Tokens below which a tokenizer was made of no file, as transformers 5 does for some kinds."""
_MANY = 32_000
_SPECIAL = {
    "unk": "<unk>",
    "pad": "<pad>",
    "bos": "<s>",
    "eos": "</s>",
    "cls": "<cls>",
    "sep": "<sep>",
    "mask": "<mask>",
}
_CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}\n{% endfor %}"


class Tokenizers:
    """Puts itself before ``from_pretrained`` of tokenizers; ``note`` is told what is assumed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def install(self) -> None:
        """For libraries that are imported and for those that will be."""
        base = "transformers.tokenization_utils_base"
        after_import(base, lambda: self._wrap(base, "PreTrainedTokenizerBase"))
        automatic = "transformers.models.auto.tokenization_auto"
        after_import(automatic, lambda: self._wrap(automatic, "AutoTokenizer"))

    def _wrap(self, module: str, owner: str) -> None:
        kind: Any = getattr(importlib.import_module(module), owner)
        load = kind.from_pretrained.__func__

        def from_pretrained(cls: Any, /, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
            name, part = str(pretrained_model_name_or_path), options.get("subfolder") or None
            is_here = any(is_on_disk(name, file, part) for file in _FILES)
            try:
                made = load(cls, pretrained_model_name_or_path, *args, **options)
            except Exception:  # Libraries raise all kinds where a file is missing.
                if is_here:
                    raise
                return self._stand_in(name, part)
            return made if is_here or len(made) > _FEW else self._stand_in(name, part)

        kind.from_pretrained = classmethod(from_pretrained)

    def _stand_in(self, name: str, part: str | None) -> Any:
        entry = checkpoints().get(name) or checkpoints().get(f"{name}#{str(part).replace('tokenizer', 'text_encoder')}")
        entry = entry or {}
        self._note(
            f"the tokenizer of {name} is not on this machine: each word counts as a token, so that texts that are not "
            "padded to a maximum have another length"
        )
        return of_words(entry.get("vocabulary", _MANY), entry.get("positions"))


def of_words(count: int, longest: int | None) -> Any:
    """A tokenizer of ``count`` tokens whose texts are cut, if the script wants that, behind ``longest`` of them."""
    library: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    words = [*_SPECIAL.values(), *(f"word{number}" for number in range(count - len(_SPECIAL)))]
    model = library.models.WordLevel({word: number for number, word in enumerate(words)}, _SPECIAL["unk"])
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    limit = {} if longest is None else {"model_max_length": longest}
    names = {f"{name}_token": word for name, word in _SPECIAL.items()}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **limit)
    made.chat_template = _CHAT
    return made
