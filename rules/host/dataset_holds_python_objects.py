"""MEM901."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.datasets import (
    Entries,
    SampleContainer,
    Workers,
    dataset_classes,
    is_iterable_dataset,
    order_lists,
    sample_containers,
    workers_that_read,
)
from memlint.model.program import Program
from memlint.model.samplers import TensorIndices, tensor_indices
from memlint.model.scopes import Class
from memlint.rule import Rule


class DatasetHoldsPythonObjects(Rule):
    """A data set keeps a Python object for each sample, of which every worker makes a copy by reading it.

    ## What it does
    Finds lists and dicts in the attributes of a `Dataset` that have an entry for each sample (its `__len__` or the
    index of `__getitem__` says so) and are made of a file, a table, an array or a loop: `json.load`, `.tolist()`,
    `.to_dict()`, comprehensions, `append` or `+=` in a loop. It asks how many workers the loaders have that read it.
    It also finds a `Sampler` that goes through a tensor, and so yields a tensor for each index.

    ## Why is this bad?
    Workers are forked and share the memory of the main process until something writes to it. Reading a Python object
    writes its reference count, so that the pages of all objects that a worker has looked at are copied: host memory
    grows through the epoch towards (workers + 1) times the data set, for each process of distributed training. With a
    million tuples and two workers, the private memory of a worker grew from 10 to 48 MiB in one pass over a list, to 71
    MiB over a dict, and to 12 MiB over an array (measured). GPU memory is not concerned.

    ## Example
    ```python
    class Captions(Dataset):
        def __init__(self, path):
            self.samples = json.load(open(path))
    ```

    ## Use instead
    ```python
    class Captions(Dataset):
        def __init__(self, path):
            rows = [pickle.dumps(row) for row in json.load(open(path))]
            self.ends = np.cumsum([len(row) for row in rows])
            self.rows = np.frombuffer(b"".join(rows), dtype=np.uint8)  # row i: rows[ends[i - 1]:ends[i]]
    ```

    ## Fix safety
    There is no automatic fix for data sets. Numbers fit in an array, texts in `np.array(texts, dtype="S")`, records in
    bytes with offsets as above or in an Arrow table (`datasets.Dataset`), which workers share. What a sampler yields
    becomes numbers by `.tolist()`; unsafe, since a data set might use them as tensors.

    ## When to ignore
    When the data set has some ten thousand samples, or the loaders have no workers.

    ## References
    - [pytorch#13246](https://github.com/pytorch/pytorch/issues/13246),
      [pytorch#20433](https://github.com/pytorch/pytorch/issues/20433)
    - [Demystify RAM usage in multi-process data loaders](https://ppwwyyxx.com/blog/2022/Demystify-RAM-Usage-in-Multiprocess-DataLoader/)
    """

    code = "MEM901"
    name = "dataset-holds-python-objects"
    severity = Severity.WARNING
    gate = frozenset({"__getitem__", "__iter__", "Dataset", "IterableDataset"})
    fixers = ("call_method",)
    positive = (
        """
import json
from torch.utils.data import DataLoader, Dataset
class Captions(Dataset):
    def __init__(self, path):
        with open(path) as file:
            self.samples = json.load(file)  # MEM901: 28
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, index):
        return self.samples[index]["caption"]
loader = DataLoader(Captions("captions.json"), num_workers=8)
""",
        """
import torch
from torch.utils.data import DataLoader
class Pairs(torch.utils.data.Dataset):
    def __init__(self, table):
        self.pairs = [(row.left, row.right) for row in table.itertuples()]  # MEM901
    def __len__(self):
        return len(self.pairs)
    def __getitem__(self, i):
        return self.pairs[i]
def main(args, table):
    return DataLoader(Pairs(table), batch_size=8, num_workers=args.workers)
""",
        """
from torch.utils.data import Dataset
class Lines(Dataset):
    def __init__(self, path):
        self.lines = []  # MEM901
        self._read(path)
    def _read(self, path):
        for line in open(path):
            text, label = line.split("\\t")
            self.lines.append({"text": text, "label": label})
    def __len__(self):
        return len(self.lines)
    def __getitem__(self, index):
        return self.lines[index]
""",
        """
from torch.utils.data import Dataset
class Slices(Dataset):
    def __init__(self, volumes):
        self.volumes = volumes
        self.slices = self.number(volumes)
    def number(self, volumes):
        return {i: {j: None for j in range(v.depth)} for i, v in enumerate(volumes)}  # MEM901: 16
    def __len__(self):
        return sum(len(each) for each in self.slices)
    def __getitem__(self, i):
        return self.volumes[i], self.slices[i]
""",
        """
import json
from torch.utils.data import Dataset
class Pairs(Dataset):
    def __init__(self, left, right):
        self.left = json.load(left)  # MEM901
        self.right = [json.loads(line) for line in right]
    def __len__(self):
        return len(self.left)
    def __getitem__(self, i):
        return self.left[i], self.right[i]
""",
        """
from pathlib import Path
from torch.utils.data import Dataset
class Images(Dataset):
    def __init__(self, root):
        self.paths = sorted(Path(root).glob("*.png"))  # MEM901?
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        return read(self.paths[index])
class Masks(Images):
    def __init__(self, root):
        super().__init__(root)
        self.paths = []  # MEM901?
        for path in Path(root).iterdir():
            self.paths.append((path, path.with_suffix(".mask")))
""",
        """
from torch.utils.data import IterableDataset
class Slices(IterableDataset):
    @staticmethod
    def __number(paths):
        numbers = {i: {j: None for j in range(depth(path))} for i, path in enumerate(paths)}  # MEM901: 19
        return numbers
    def __init__(self, paths):
        self.paths, self.at = paths, 0
        self.numbers = (
            Slices.__number(paths)
        )
    def __iter__(self):
        return self
    def __next__(self):
        if self.at >= len(self.numbers):
            raise StopIteration
        self.at += 1
        return self.paths[self.at]
""",
        """
import numpy as np
from torch.utils.data import IterableDataset
class Shuffled(IterableDataset):
    def __init__(self, data):
        self.data = data
    def order(self):
        indices = np.arange(len(self.data))
        np.random.shuffle(indices)
        return list(indices)  # MEM901: 16
    def __iter__(self):
        for index in self.order():
            yield self.data[index]
""",
        """
import torch
from torch.utils.data import Sampler
class Repeated(Sampler):
    def __init__(self, data, rank, ranks):
        self.data, self.rank, self.ranks = data, rank, ranks
    def __iter__(self):
        indices = torch.randperm(len(self.data))  # MEM901: 19
        if len(indices) % self.ranks:
            indices = torch.cat([indices, indices[: self.ranks]])
        return iter(indices[self.rank :: self.ranks])
""",
        """
import json
from torch.utils.data import DataLoader, Dataset
class Shards(Dataset):
    def __init__(self, paths):
        self.samples = []  # MEM901: 24
        for path in paths:
            self.samples += json.load(open(path))
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, index):
        return self.samples[index]
class Lines(Dataset):
    def __init__(self, paths):
        rows = []  # MEM901: 16
        for path in paths:
            rows += [line.split() for line in open(path)]
        self.rows = rows
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return self.rows[index]
def loaders(paths):
    return DataLoader(Shards(paths), num_workers=4), DataLoader(Lines(paths), num_workers=4)
""",
        """
import json
from torch.utils.data import DataLoader, Dataset
class Texts(Dataset):
    def __init__(self, path):
        with open(path) as file:
            data = json.load(file)
        self.texts = data["texts"]  # MEM901: 22
    def __len__(self):
        return len(self.texts)
    def __getitem__(self, index):
        return self.texts[index]
class More(Dataset):
    def __init__(self, others):
        self.more = sum([json.load(open(other)) for other in others], [])  # MEM901: 21
    def __len__(self):
        return len(self.more)
    def __getitem__(self, index):
        return self.more[index]
loaders = [DataLoader(each, num_workers=4) for each in (Texts("texts.json"), More(["more.json"]))]
""",
    )
    negative = (
        """
import torch
from torch.utils.data import DataLoader, Dataset
def encode(labels, numbers, kind):
    labels = [numbers[each] for each in labels]
    if kind == "classes":
        labels = torch.tensor(labels)
    elif kind == "values":
        labels = torch.tensor(labels, dtype=torch.float)
    return labels
class Labels(Dataset):
    def __init__(self, labels, numbers, kind):
        self.labels = encode(labels, numbers, kind)
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, i):
        return self.labels[i]
loader = DataLoader(Labels(read(), table, kind()), num_workers=4)
""",
        """
import pickle
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __init__(self, path):
        with open(path, "rb") as file:
            batch = pickle.load(file)
        self.images = batch["data"]
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        return self.images[index]
loader = DataLoader(Images("data_batch_1"), num_workers=4)
""",
        """
import numpy as np
from torch.utils.data import DataLoader, Dataset
class Arrays(Dataset):
    def __init__(self, paths):
        self.x, self.length, self.splits = [], 0, []
        for path in paths:
            self.x += [np.load(path)]
            self.length += len(path)
        for split in ("train", "test"):
            self.splits += [split]
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        self.splits += [str(index)]
        return self.x[index], self.splits[index]
loader = DataLoader(Arrays(["a.npy"]), num_workers=2)
""",
        """
import torch
from torch.utils.data import BatchSampler, Sampler
class Shuffled(Sampler):
    def __init__(self, data):
        self.data = data
    def __iter__(self):
        yield from torch.randperm(len(self.data)).tolist()
class Batches(BatchSampler):
    def __iter__(self):
        return iter(torch.randperm(len(self.sampler))[:10])
class Numbers:
    def __iter__(self):
        return iter(torch.arange(10))
""",
        """
import json
from torch.utils.data import DataLoader, Dataset
class Captions(Dataset):
    def __init__(self, path):
        self.samples = json.load(open(path))
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, index):
        return self.samples[index]
loader = DataLoader(Captions("captions.json"), batch_size=32)
other = DataLoader(Captions("others.json"), num_workers=0)
""",
        """
import numpy as np
import torch
from torch.utils.data import Dataset
class Arrays(Dataset):
    def __init__(self, path, table):
        self.x = np.load(path, mmap_mode="r")
        self.y = torch.tensor([row.label for row in table.itertuples()])
        self.names = np.array([row.name for row in table.itertuples()], dtype="S")
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return self.x[index], self.y[index], self.names[index]
""",
        """
import os
from torch.utils.data import Dataset
class Classes(Dataset):
    def __init__(self, root, images):
        self.images = images
        self.classes = sorted(os.listdir(root))
        self.index_of = {name: index for index, name in enumerate(self.classes)}
        self.transforms = [make(name) for name in ("crop", "flip")]
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        image, name = self.images[index]
        return image, self.index_of[name]
""",
        """
import json
class Config:
    def __init__(self, path):
        self.entries = json.load(open(path))
    def __len__(self):
        return len(self.entries)
    def __getitem__(self, key):
        return self.entries[key]
""",
        """
from multiprocessing import Manager
from torch.utils.data import Dataset
class Shared(Dataset):
    def __init__(self, paths):
        self.paths = Manager().list(paths)
        self.cache = {}
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        if index not in self.cache:
            for part in read(self.paths[index]):
                self.cache[index] = {"part": part}
        return self.cache[index]
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for owner in dataset_classes(program):
            yield from self._held(owner)
            if is_iterable_dataset(owner) and workers_that_read(owner) is not Workers.NONE:
                for made in order_lists(owner):
                    what = "Each worker makes a Python object for the number of each sample of the whole data set"
                    yield self._finding(made.node, what, Confidence.LIKELY)
        for found in tensor_indices(program):
            yield self._tensors(found)

    def _held(self, owner: Class) -> Iterator[Finding]:
        """One finding for a class, however many lists it has: what helps one of them helps all."""
        known = [(held, confidence) for held in sample_containers(owner) if (confidence := _confidence(owner, held))]
        if known:
            first, confidence = max(known, key=lambda each: each[1].rank)
            names = [f"`self.{held.name}`" for held, each in known if each is confidence]
            yield self._finding(
                _place(first, owner),
                f"{', '.join(names)} {'keep' if names[1:] else 'keeps'} a Python object for each sample: each worker "
                "copies what it reads",
                confidence,
                first.store.target,
            )

    def _tensors(self, found: TensorIndices) -> Finding:
        fix = Fix(
            "call_method",
            "Yield numbers",
            Applicability.UNSAFE,
            {"expression": found.yielded.node},
            {"method": "tolist"},
        )
        return self.finding(
            found.made.node,
            "The sampler yields a tensor for each index: each goes to a worker through a piece of shared memory",
            holds="shared memory and a file descriptor for each index on its way to a worker",
            severity=Severity.NOTE,
            confidence=Confidence.LIKELY,
            fixes=(fix,),
            claim=Claim(
                ClaimShape.PLATEAU,
                "host",
                "indices on their way",
                held=found.made.node,
                unobservable="it happens between processes, in memory that is not recorded",
            ),
        )

    def _finding(
        self, node: cst.CSTNode, message: str, confidence: Confidence, holder: cst.CSTNode | None = None
    ) -> Finding:
        return self.finding(
            node,
            message,
            holds="host memory: the objects of the data set once more in each worker",
            confidence=confidence,
            claim=Claim(
                ClaimShape.GROWS,
                "host",
                "workers * objects",
                holder=holder,
                held=node,
                watch=Watch.SAMPLE_OBJECTS,
                unobservable="" if holder is not None else "each worker makes the list anew, in its own memory",
            ),
        )


def _place(held: SampleContainer, owner: Class) -> cst.CSTNode:
    """What makes the container, if it stands in the file of the class; else where it is stored."""
    return held.made.node if held.made.function.module is owner.module else held.store.node


def _confidence(owner: Class, held: SampleContainer) -> Confidence | None:
    """Likely for many objects a sample, and for a few where a loader in sight has workers; folders may be small."""
    workers = workers_that_read(owner)
    if workers is Workers.NONE or owner.module.is_test:
        return None
    if held.may_be_array:
        return Confidence.POSSIBLE
    if held.entries is Entries.OBJECTS or (workers is Workers.SOME and held.entries is Entries.PLAIN):
        return Confidence.LIKELY
    return Confidence.POSSIBLE
