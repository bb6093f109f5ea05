"""Facts about torch: which names make what, which operations detach, which keep a graph.

Sources: the docstrings and signatures of torch 2.13.0, and runs of each operation on an input that requires grad.
"""

from __future__ import annotations

GRAPH_WORDS = frozenset(
    """
    torch backward manual_backward lightning pytorch_lightning accelerate transformers deepspeed ignite diffusers timm
    fabric model net network policy nn loss criterion
    """.split()
)
"""Gate of the rules about kept graphs: a file without any of these words computes nothing that carries one."""

NO_GRAD = frozenset(
    {
        "torch.no_grad",
        "torch.autograd.no_grad",
        "torch.autograd.grad_mode.no_grad",
        "torch.inference_mode",
        "torch.autograd.inference_mode",
        "torch.autograd.grad_mode.inference_mode",
    }
)
"""Context managers and decorators under which operations record no graph."""

INFERENCE_MODE = frozenset(name for name in NO_GRAD if name.endswith("inference_mode"))
"""Those of NO_GRAD that take a ``mode`` argument which switches them off."""

ENABLE_GRAD = frozenset({"torch.enable_grad", "torch.autograd.enable_grad", "torch.autograd.grad_mode.enable_grad"})

SET_GRAD_ENABLED = frozenset(
    {
        "torch.set_grad_enabled",
        "torch.autograd.set_grad_enabled",
        "torch.autograd.grad_mode.set_grad_enabled",
        "torch._C._set_grad_enabled",
    }
)

AUTOCAST = frozenset(
    {
        "torch.autocast",
        "torch.amp.autocast",
        "torch.amp.autocast_mode.autocast",
        "torch.cuda.amp.autocast",
        "torch.cuda.amp.autocast_mode.autocast",
        "torch.cpu.amp.autocast",
        "torch.cpu.amp.autocast_mode.autocast",
    }
)

GRADIENT_CONTEXTS = NO_GRAD | ENABLE_GRAD | AUTOCAST
"""Context managers that do nothing until they are entered."""

VARIABLES = frozenset({"torch.autograd.Variable", "torch.autograd.variable.Variable"})

DETACHING_METHODS = frozenset(
    """
    detach item tolist numpy argmax argmin argsort bool int long short byte char size dim numel element_size nelement
    eq ne lt le gt ge equal isnan isinf isfinite isclose allclose any all is_contiguous data_ptr stride get_device
    nonzero count_nonzero bincount ndimension storage untyped_storage sign
    logical_and logical_or logical_not logical_xor searchsorted bucketize histc unique unique_consecutive
    new new_zeros new_ones new_full new_empty new_tensor record_stream __len__ __bool__ __float__ __int__
    clip_grad_norm_ clip_gradients get_global_grad_norm
    """.split()
)
"""Methods whose result carries no graph (integers, booleans, fresh tensors, Python values, norms of gradients)."""

DETACHING_ATTRIBUTES = frozenset(
    {
        "data",
        "shape",
        "device",
        "dtype",
        "grad",
        "grad_fn",
        "is_leaf",
        "is_cuda",
        "layout",
        "ndim",
        "requires_grad",
        "param_groups",
        "itemsize",
        "nbytes",
    }
)
"""Tensor attributes that lead away from the graph."""

INDEX_PARTS = frozenset({"indices"})
"""Fields of named tuples (``max``, ``topk``, ``sort``) that hold indices."""

IN_PLACE_DETACH = frozenset({"detach_"})

DETACHING_FUNCTIONS = frozenset(
    """
    torch.tensor torch.zeros torch.ones torch.empty torch.full torch.arange torch.linspace torch.logspace torch.eye
    torch.rand torch.randn torch.randint torch.randperm torch.normal torch.bernoulli torch.multinomial torch.zeros_like
    torch.ones_like torch.empty_like torch.full_like torch.rand_like torch.randn_like torch.randint_like
    torch.from_numpy torch.argmax torch.argmin torch.argsort torch.eq torch.ne torch.lt torch.le torch.gt torch.ge
    torch.equal torch.isnan torch.isinf torch.isfinite torch.isclose torch.allclose torch.any torch.all torch.nonzero
    torch.count_nonzero torch.bincount torch.numel torch.is_tensor torch.sign torch.logical_and torch.logical_or
    torch.logical_not torch.logical_xor torch.searchsorted torch.bucketize torch.histc torch.unique
    torch.unique_consecutive torch.tril_indices torch.triu_indices torch.device torch.Size torch.finfo torch.iinfo
    torch.manual_seed torch.get_rng_state torch.nn.functional.one_hot torch.load torch.save torch.is_grad_enabled
    torch.IntTensor torch.LongTensor torch.FloatTensor torch.Tensor torch.BoolTensor torch.cuda.FloatTensor
    torch.cuda.LongTensor torch.Generator torch.utils.data.DataLoader torch.randint torch.vander torch.hann_window
    torch.hamming_window torch.nn.utils.clip_grad_norm_ torch.nn.utils.clip_grad_norm torch.nn.utils.get_total_norm
    torch.nn.utils.clip_grad.clip_grad_norm_
    builtins.len builtins.int builtins.float builtins.bool builtins.str builtins.repr builtins.print builtins.format
    builtins.isinstance builtins.hasattr builtins.id builtins.hash builtins.type builtins.range builtins.open
    builtins.any builtins.all builtins.callable builtins.bytes builtins.ord builtins.chr
    math.isnan math.isinf math.isfinite math.exp math.log math.sqrt math.floor math.ceil math.pow math.log2 math.log10
    json.dumps json.dump pickle.dumps pickle.dump
    """.split()
)
"""Functions whose result carries no graph whatever goes in."""

DETACHING_ROOTS = (
    "torch.utils.benchmark.",
    "numpy.",
    "pandas.",
    "sklearn.",
    "scipy.",
    "matplotlib.",
    "os.",
    "time.",
    "logging.",
    "random.",
    "wandb.",
    "tqdm.write",
    "datetime.",
    "re.",
    "sys.",
)
"""Libraries that know nothing of autograd."""

BYSTANDER_ROOTS = (
    "builtins.",
    "copy.",
    "itertools.",
    "functools.",
    "collections.",
    "pathlib.",
    "json.",
    "pickle.",
    "tqdm.",
    "torchvision.",
    "torchaudio.",
    "torchmetrics.",
    "tensorboardX.",
    "tensorboard.",
    "visdom.",
    "mlflow.",
    "PIL.",
    "cv2.",
    "imageio.",
    "soundfile.",
    "h5py.",
    "safetensors.",
)
"""Libraries that may hand tensors on, but run no backward themselves."""

PASSING_BUILTINS = frozenset(
    """
    builtins.sum builtins.max builtins.min builtins.abs builtins.pow builtins.list builtins.tuple builtins.dict
    builtins.set builtins.zip builtins.enumerate builtins.reversed builtins.sorted builtins.iter builtins.next
    builtins.map builtins.filter builtins.getattr builtins.round collections.OrderedDict collections.deque
    collections.defaultdict itertools.chain itertools.chain.from_iterable functools.reduce copy.copy copy.deepcopy
    itertools.islice itertools.zip_longest itertools.product
    """.split()
)
"""Functions whose result holds or combines their arguments."""

GRAPHLESS_WORDS = frozenset(
    "detach detached accuracy accuracies acc correct iou miou auc psnr wer cer bleu numpy item tolist list".split()
)
"""Words in names of functions, in default of their code, for results that carry no graph."""

OUT_OF_MEMORY_ERRORS = frozenset(
    {
        "torch.OutOfMemoryError",
        "torch.cuda.OutOfMemoryError",
        "torch.cuda.memory.OutOfMemoryError",
        "torch._C.OutOfMemoryError",
        "torch._C._OutOfMemoryError",
    }
)
"""The names of the one exception that an exhausted device raises."""

AUTOGRAD_FUNCTIONS = frozenset(
    {
        "torch.autograd.Function",
        "torch.autograd.function.Function",
        "torch.autograd.function.InplaceFunction",
    }
)
"""Base classes of custom autograd functions."""

FILLED_TENSORS = frozenset(
    "torch.zeros torch.ones torch.empty torch.full torch.rand torch.randn torch.randint torch.arange torch.eye".split()
)
"""Functions that make a tensor of a given shape out of nothing."""

CREATORS_WITH_GRAD = frozenset({"torch.nn.Parameter", "torch.nn.parameter.Parameter"})

GRADIENT_FUNCTIONS = frozenset({"torch.autograd.grad", "torch.autograd.backward"})
"""Functions that run a backward over their first argument."""

FUNCTIONAL_CALLS = frozenset({"torch.func.functional_call", "torch.nn.utils.stateless.functional_call"})
"""Functions that run the module that is their first argument, with other parameters than its own."""

FUNCTION_MODULES = ("torch.", "torchvision.ops.", "kornia.", "einops.", "torch_scatter.", "torchaudio.functional.")
"""Where functions live whose result carries a graph if an argument does."""

OPTIMIZER_ROOTS = (
    "torch.optim.",
    "bitsandbytes.optim.",
    "apex.optimizers.",
    "deepspeed.ops.adam.",
    "torch_optimizer.",
    "timm.optim.",
    "transformers.optimization.",
    "prodigyopt.",
    "dadaptation.",
    "schedulefree.",
)
OPTIMIZER_CLASSES = frozenset(
    {
        "transformers.AdamW",
        "transformers.Adafactor",
        "torch.optim.Optimizer",
        "lion_pytorch.Lion",
        "accelerate.optimizer.AcceleratedOptimizer",
        "accelerate.utils.DummyOptim",
        "pytorch_transformers.AdamW",
        "pytorch_pretrained_bert.BertAdam",
        "pytorch_pretrained_bert.optimization.BertAdam",
    }
)
SCHEDULER_ROOTS = (
    "torch.optim.lr_scheduler.",
    "transformers.get_",
    "transformers.optimization.get_",
    "transformers.optimization.AdafactorSchedule",
    "diffusers.optimization.get_",
    "timm.scheduler.",
)
LOADER_CLASSES = frozenset(
    {
        "torch.utils.data.DataLoader",
        "torch.utils.data.dataloader.DataLoader",
        "torch_geometric.loader.DataLoader",
        "torch_geometric.data.DataLoader",
        "torchtext.data.BucketIterator",
        "torchtext.data.Iterator",
        "dgl.dataloading.GraphDataLoader",
        "monai.data.DataLoader",
        "webdataset.WebLoader",
        "torchdata.stateful_dataloader.StatefulDataLoader",
    }
)
SCALER_CLASSES = frozenset(
    {"torch.amp.GradScaler", "torch.cuda.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler"}
)
DATASET_CLASSES = frozenset(
    {
        "torch.utils.data.Dataset",
        "torch.utils.data.IterableDataset",
        "torch.utils.data.TensorDataset",
        "torch.utils.data.Subset",
    }
)
MODULE_CLASSES = frozenset(
    {
        "torch.nn.Module",
        "torch.nn.modules.Module",
        "torch.nn.modules.module.Module",
        "torch.jit.ScriptModule",
        "torch.nn.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.distributed.fsdp.FullyShardedDataParallel",
        "torch.optim.swa_utils.AveragedModel",
        "apex.parallel.DistributedDataParallel",
        "torch_geometric.nn.MessagePassing",
        "sentence_transformers.SentenceTransformer",
    }
)
MODULE_ROOTS = (
    "torch.nn.",
    "torchvision.models.",
    "torch_geometric.nn.",
    "dgl.nn.",
    "timm.models.",
    "timm.layers.",
    "segmentation_models_pytorch.",
    "efficientnet_pytorch.",
    "monai.networks.",
    "open_clip.",
    "kornia.",
)
MODULE_FACTORIES = frozenset(
    {
        "timm.create_model",
        "timm.models.create_model",
        "torch.hub.load",
        "torch.jit.load",
        "torch.jit.script",
        "torch.jit.trace",
        "open_clip.create_model",
        "torchvision.models.get_model",
    }
)
"""Functions that return a module."""

DDP = frozenset({"torch.nn.parallel.DistributedDataParallel", "torch.nn.parallel.distributed.DistributedDataParallel"})

MODULE_WRAPPERS = frozenset(
    {
        "torch.compile",
        "torch.nn.DataParallel",
        "torch.nn.parallel.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.distributed.fsdp.FullyShardedDataParallel",
        "torch.distributed.fsdp.fully_shard",
        "torch.jit.script",
        "torch.jit.trace",
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
        "torch.nn.utils.spectral_norm",
        "torch.nn.utils.weight_norm",
        "torch.nn.utils.parametrizations.spectral_norm",
        "torch.nn.utils.parametrizations.weight_norm",
        "peft.get_peft_model",
        "peft.prepare_model_for_kbit_training",
        "copy.deepcopy",
        "copy.copy",
        "apex.parallel.DistributedDataParallel",
        "apex.parallel.convert_syncbn_model",
        "torch.optim.swa_utils.AveragedModel",
    }
)
"""Functions and classes whose result stands for the module that goes in."""

NOT_MODULES = frozenset(
    {
        "torch.nn.Parameter",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.nn.Buffer",
        "torch.nn.ParameterList",
        "torch.nn.ParameterDict",
    }
)
"""Capitalised names under ``torch.nn`` that are no modules with a forward."""

STATELESS_MODULES = frozenset(
    """
    ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Softmax LogSoftmax Softplus Softsign Hardtanh
    Hardswish Hardsigmoid Dropout Dropout1d Dropout2d Dropout3d AlphaDropout Identity Flatten Unflatten MaxPool1d
    MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    AdaptiveMaxPool1d AdaptiveMaxPool2d Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle
    ZeroPad2d ReflectionPad2d ReplicationPad2d Softmax2d LogSigmoid Threshold Tanhshrink Softshrink Hardshrink
    CosineSimilarity PairwiseDistance Fold Unfold GLU
    """.split()
)
"""Classes of ``torch.nn`` without parameters: their output has a graph only if an input has one."""

SELF_RETURNING = frozenset(
    """
    to cuda cpu half float double bfloat16 train eval requires_grad_ apply type share_memory to_empty zero_grad_ compile
    xpu mps npu ipu merge_and_unload enable_gradient_checkpointing
    """.split()
)
"""Module methods that return the module itself."""

MODULE_EVIDENCE = frozenset(
    {
        "parameters",
        "named_parameters",
        "named_modules",
        "modules",
        "children",
        "named_children",
        "load_state_dict",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "gradient_checkpointing_enable",
        "enable_input_require_grads",
        "save_pretrained",
        "no_sync",
        "eval",
        "train",
    }
)
"""Methods that only a module has; ``load_state_dict``, that optimizers have too, decides together with a call."""

STRONG_MODULE_EVIDENCE = frozenset(
    {"parameters", "named_parameters", "named_modules", "modules", "children", "register_forward_hook"}
)

TENSOR_EVIDENCE = frozenset(
    """
    backward detach item requires_grad_ unsqueeze squeeze view reshape permute transpose contiguous expand masked_fill
    argmax softmax log_softmax sigmoid tanh mean sum clone numel dim size cpu cuda float half long flatten chunk norm
    clamp gather scatter index_select masked_select zero_ fill_ normal_ uniform_ masked_fill_ clamp_
    """.split()
)

OPTIMIZER_EVIDENCE = frozenset({"zero_grad", "param_groups", "add_param_group"})

PARAMETER_METHODS = frozenset({"parameters", "named_parameters"})
"""Module methods that return leaves of the graph."""

STRUCTURE_METHODS = frozenset(
    {"modules", "children", "named_modules", "named_children", "buffers", "named_buffers", "get_submodule"}
)
"""Module methods that return its parts, not what it computes."""

GENERATED_WITHOUT_GRAD = frozenset({"generate", "state_dict", "get_nb_trainable_parameters"})
"""Module methods that record no graph (``generate`` of transformers runs under no_grad)."""

ACCELERATORS = frozenset({"cuda", "gpu", "mps", "xpu", "npu", "hpu", "xla", "auto"})
"""How devices other than the CPU are called in ``torch.device`` and in the arguments of frameworks."""

ACCELERATOR_ROOTS = (
    "torch.cuda.",
    "torch.mps.",
    "torch.xpu.",
    "torch.npu.",
    "torch.accelerator.",
    "torch_xla.",
    "apex.",
)
"""Where functions live that only make sense on an accelerator."""

GRAPH_CAPTURES = frozenset(
    {"torch.cuda.graph", "torch.cuda.graphs.graph", "torch.cuda.CUDAGraph", "torch.cuda.make_graphed_callables"}
)
"""What records kernels together with the addresses that they use."""
