"""Reads training scripts of public repositories with ``memlint estimate`` and prints what was resolved and what not.

    python bench/real_scripts.py --mirrors DIR [--only TEXT]

Needs git mirrors of the repositories at ``owner+name/repo`` under DIR. Nothing is imported and nothing runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from mirrors import Mirrors
from rich.console import Console
from rich.table import Table

from memlint.capacity.estimate import Estimate, estimate_script
from memlint.parsing import deep_recursion

SCRIPTS = {
    ("pytorch/examples", "77f55b91"): (
        "mnist/main.py",
        "imagenet/main.py",
        "word_language_model/main.py",
        "dcgan/main.py",
        "vae/main.py",
        "siamese_network/main.py",
        "super_resolution/main.py",
        "time_sequence_prediction/train.py",
        "mnist_rnn/main.py",
    ),
    ("karpathy/minGPT", "37baab71"): ("projects/adder/adder.py", "projects/chargpt/chargpt.py"),
    ("karpathy/nanoGPT", "3adf61e1"): ("train.py",),
    ("yunjey/pytorch-tutorial", "0500d3df"): (
        "tutorials/02-intermediate/deep_residual_network/main.py",
        "tutorials/02-intermediate/language_model/main.py",
        "tutorials/03-advanced/generative_adversarial_network/main.py",
        "tutorials/03-advanced/image_captioning/train.py",
    ),
    ("patrickloeber/pytorchTutorial", "69637721"): ("14_cnn.py", "15_transfer_learning.py"),
    ("milesial/Pytorch-UNet", "21d7850f"): ("train.py",),
    ("kuangliu/pytorch-cifar", "49b7aa97"): ("main.py",),
    ("huggingface/accelerate", "16cb6eb8"): ("examples/cv_example.py", "examples/nlp_example.py"),
    ("facebookresearch/mae", "efb2a806"): ("main_pretrain.py",),
    ("HobbitLong/SupContrast", "66a8fe53"): ("main_supcon.py",),
    ("jadore801120/attention-is-all-you-need-pytorch", "132907dd"): ("train.py",),
    ("locuslab/TCN", "2f8c2b81"): ("TCN/mnist_pixel/pmnist_test.py",),
    ("eriklindernoren/PyTorch-GAN", "36d3c77e"): ("implementations/dcgan/dcgan.py",),
    ("salesforce/awd-lstm-lm", "1d466ec5"): ("main.py",),
    ("sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning", "cc9c7e2f"): ("train.py",),
}
"""By repository and commit."""
SAID: dict[str, dict[str, Any]] = {
    "pytorch/examples word_language_model/main.py": {"ntokens": 33278},
    "pytorch/examples dcgan/main.py": {"dataset": "cifar10"},
    "pytorch/examples super_resolution/main.py": {"upscale_factor": 3},
    "karpathy/minGPT projects/chargpt/chargpt.py": {"vocab_size": 65},
    "yunjey/pytorch-tutorial tutorials/02-intermediate/language_model/main.py": {"vocab_size": 10000},
    "yunjey/pytorch-tutorial tutorials/03-advanced/image_captioning/train.py": {"vocab_size": 9957},
    "huggingface/accelerate examples/cv_example.py": {"num_classes": 37},
    "jadore801120/attention-is-all-you-need-pytorch train.py": {
        "n_src_vocab": 9521,
        "n_trg_vocab": 9521,
        "src_pad_idx": 1,
        "trg_pad_idx": 1,
    },
    "salesforce/awd-lstm-lm main.py": {"ntokens": 33278},
    "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning train.py": {"vocab_size": 9490},
}
"""What the data or the user of these decide, and the script does not tell: given by ``--set`` in a second estimate."""
SHOWN = ("batch", "length", "image", "precision", "optimizer", "accumulation", "checkpointing")


def unpacked(mirrors: Mirrors, repo: str, commit: str, folder: Path) -> bool:
    """Whether the Python files of a commit, and what marks its project, stand in ``folder`` now."""
    files = [*mirrors.python_files(repo, commit), *mirrors.metadata(repo, commit)]
    for path, data in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / ".git").mkdir()
    return bool(files)


def row_of(result: Estimate) -> tuple[str, str, str]:
    """Models, settings, and what is unknown."""
    models = []
    for model in result.reading.models:
        doubts = model.doubts()
        trained = "" if any(model is each for each in result.reading.trained) else " (not trained)"
        models.append(f"{model.class_name.rpartition('.')[2]} {'?' if doubts else format(model.count(), ',')}{trained}")
    facts = result.reading.facts
    settings = [f"{name} {'?' if (v := facts[name].value) is None else v}" for name in SHOWN if name in facts]
    return "; ".join(models) or "none", ", ".join(settings), "; ".join(result.missing[:3])


@click.command()
@click.option("--mirrors", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--only", default="", help="Only scripts with this in their repository or path.")
@click.option("--markdown", is_flag=True, help="As the table in the documentation.")
def main(mirrors: Path, only: str, markdown: bool) -> None:
    """Read every script and print a row for it."""
    table = Table("script", "models and parameters", "settings", "unknown", "s")
    counted = complete = total = with_set = 0
    for (repo, commit), paths in SCRIPTS.items():
        wanted = [path for path in paths if only in f"{repo}/{path}"]
        with tempfile.TemporaryDirectory() as name:
            if not wanted or not unpacked(Mirrors(mirrors), repo, commit, Path(name)):
                continue
            for path in wanted:
                begin = time.process_time()
                with deep_recursion():
                    result = estimate_script(Path(name) / path, None, {})
                models, settings, unknown = row_of(result)
                said = SAID.get(f"{repo} {path}")
                if said is not None:
                    with deep_recursion():
                        again = estimate_script(Path(name) / path, None, said)
                    with_set += again.peak is not None and result.peak is None
                    given = " ".join(f"--set {key}={value}" for key, value in said.items())
                    models += f"; with `{given}`: {row_of(again)[0]}"
                total += 1
                counted += result.peak is not None
                complete += result.is_complete
                if markdown:
                    print(f"| {repo} `{commit}` `{path}` | {models} | {settings} | {unknown} |", flush=True)
                table.add_row(f"{repo} {path}", models, settings, unknown, f"{time.process_time() - begin:.1f}")
                print(f"{repo} {path}: {models}", file=sys.stderr)
    if not markdown:
        Console(width=170).print(table)
    print(f"{total} scripts, trained models counted in {counted}, with --set in {counted + with_set}")
    print(f"peak complete in {complete}")


if __name__ == "__main__":
    main()
