"""Facts about the libraries that run training loops: who zeroes, who disables gradients, who detaches.

Sources: lightning 2.6.6, transformers 5.23.0, accelerate 1.15.0, ignite 0.5.5, DeepSpeed's documentation, read in their
sources; Keras 3's torch trainer.
"""

from __future__ import annotations

LIGHTNING_MODULES = frozenset(
    {
        "lightning.LightningModule",
        "lightning.pytorch.LightningModule",
        "lightning.pytorch.core.LightningModule",
        "lightning.pytorch.core.module.LightningModule",
        "pytorch_lightning.LightningModule",
        "pytorch_lightning.core.LightningModule",
        "pytorch_lightning.core.lightning.LightningModule",
        "pytorch_lightning.core.module.LightningModule",
    }
)
LIGHTNING_ROOTS = ("lightning.", "pytorch_lightning.", "lightning_fabric.")

LIGHTNING_GRADIENT_FREE_HOOKS = frozenset(
    """
    validation_step test_step predict_step validation_step_end test_step_end validation_epoch_end test_epoch_end
    on_validation_epoch_end on_test_epoch_end on_predict_epoch_end on_validation_start on_validation_end on_test_start
    on_test_end on_predict_start on_predict_end on_validation_epoch_start on_test_epoch_start on_predict_epoch_start
    on_validation_batch_start on_validation_batch_end on_test_batch_start on_test_batch_end on_predict_batch_start
    on_predict_batch_end
    """.split()
)
"""Hooks that the Trainer runs under ``inference_mode`` (``Trainer(inference_mode=True)`` is the default)."""

LIGHTNING_TRAINING_HOOKS = frozenset({"training_step", "training_step_end"})
"""Hooks whose returned loss the Trainer runs backward on."""

BATCH_ENGINES = frozenset({"ignite.engine.Engine", "ignite.engine.engine.Engine"})
"""Classes that run the function which they are given for each batch."""

BATCH_ENGINE_NAMES = frozenset(name.rpartition(".")[2] for name in BATCH_ENGINES)

LIGHTNING_EVALUATION_STEPS = frozenset({"validation_step", "test_step", "predict_step"})
"""Hooks of a LightningModule that evaluate one batch."""

LIGHTNING_BATCH_END_HOOKS = frozenset({"on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end"})
"""Hooks of a callback that get, after the Trainer and the module, what those steps return."""

LIGHTNING_EPOCH_HOOKS = frozenset(
    """
    on_train_epoch_end on_train_epoch_start on_validation_epoch_end on_validation_epoch_start on_test_epoch_end
    on_test_epoch_start on_predict_epoch_end on_predict_epoch_start on_train_start on_train_end on_validation_start
    on_validation_end on_test_start on_test_end on_fit_start on_fit_end on_train_batch_end on_train_batch_start
    on_validation_batch_start on_validation_batch_end training_epoch_end validation_epoch_end test_epoch_end
    on_epoch_end on_epoch_start on_predict_start on_predict_end
    """.split()
)
"""Hooks in which what the steps collected is read and dropped."""

HF_TRAINER_CLASSES = frozenset(
    {
        "transformers.Trainer",
        "transformers.Seq2SeqTrainer",
        "transformers.trainer.Trainer",
        "transformers.trainer_seq2seq.Seq2SeqTrainer",
        "trl.SFTTrainer",
        "trl.DPOTrainer",
        "trl.PPOTrainer",
        "trl.GRPOTrainer",
        "trl.RewardTrainer",
        "trl.ORPOTrainer",
        "trl.KTOTrainer",
        "sentence_transformers.SentenceTransformerTrainer",
    }
)
TRAINING_WORDS = frozenset(
    """
    backward manual_backward Trainer Seq2SeqTrainer SentenceTransformerTrainer SFTTrainer DPOTrainer KTOTrainer
    ORPOTrainer CPOTrainer BCOTrainer PPOTrainer GRPOTrainer RLOOTrainer RewardTrainer PRMTrainer GKDTrainer
    OnlineDPOTrainer NashMDTrainer XPOTrainer IterativeSFTTrainer AlignPropTrainer DDPOTrainer
    """.split()
)
"""Gate of the rules about what is trained: a file without any of these words runs no backward, nor has one run."""

HF_TRAINER_ATTRIBUTES = {
    "accelerator": "accelerator",
    "model": "module",
    "model_wrapped": "module",
    "optimizer": "optimizer",
    "lr_scheduler": "scheduler",
    "train_dataset": "dataset",
    "eval_dataset": "dataset",
}
"""What the Trainer of transformers keeps in its attributes, by the roles of :mod:`memlint.model.kinds`."""

HF_MODEL_HOOKS = frozenset({"compute_loss", "training_step", "prediction_step"})
"""Methods that the Trainer of transformers calls with the model as their first argument."""
HF_LOSS_HOOKS = frozenset({"compute_loss"})
"""Methods of a transformers Trainer whose result it differentiates; ``training_step`` runs the backward itself."""
HF_TRAINING_HOOKS = HF_LOSS_HOOKS | {"training_step"}
"""Methods that the Trainer of transformers runs in training, with gradients enabled."""

INFERENCE_MODULES = frozenset(
    {"ultralytics.YOLO", "ultralytics.RTDETR", "ultralytics.SAM", "ultralytics.FastSAM", "ultralytics.NAS"}
)
"""Classes of modules whose ``__call__`` predicts, under ``inference_mode`` (read in ultralytics 8.4)."""
INFERENCE_PIPELINES = "diffusers."
"""The pipelines of diffusers (``DiffusionPipeline``, ``StableDiffusionPipeline``) run their call under no_grad."""

INFERENCE_HUBS = ("ultralytics/yolov5",)
"""Repositories for ``torch.hub.load`` whose modules predict under ``inference_mode`` when they are called."""

KERAS_GRADIENT_FREE_HOOKS = frozenset({"test_step", "predict_step"})
KERAS_MODELS = frozenset({"keras.Model", "keras.models.Model"})

GRADIENT_FREE_CLASSES = frozenset(
    {
        "torch.autograd.Function",
        "torch.autograd.function.Function",
        "torch.optim.Optimizer",
        "torch.optim.optimizer.Optimizer",
        "torchmetrics.Metric",
        "torchmetrics.metric.Metric",
    }
)
"""Base classes whose methods the library runs with gradients disabled (``Function.forward``, ``Metric.update``)."""
GRADIENT_FREE_METHODS = frozenset({"forward", "backward", "setup_context", "jvp", "vjp", "update", "compute"})

ACCELERATORS = frozenset({"accelerate.Accelerator", "accelerate.accelerator.Accelerator"})
FABRICS = frozenset(
    {"lightning.Fabric", "lightning.fabric.Fabric", "lightning_fabric.Fabric", "lightning.fabric.fabric.Fabric"}
)
ENGINE_FACTORIES = frozenset({"deepspeed.initialize"})
"""Functions that return ``(engine, optimizer, loader, scheduler)``; ``engine.step()`` zeroes the gradients itself."""
AMP_INITIALIZERS = frozenset({"apex.amp.initialize"})
"""Functions that return ``(model, optimizer)``."""

MODEL_LOADERS = frozenset(
    {
        "open_clip.create_model_and_transforms",
        "open_clip.create_model_from_pretrained",
        "open_clip.factory.create_model_and_transforms",
        "clip.load",
    }
)
"""Functions that return a model first, and the transforms of its input after it."""

PRETRAINED_ROOTS = (
    "transformers.",
    "diffusers.",
    "sentence_transformers.",
    "peft.",
    "pytorch_transformers.",
    "pytorch_pretrained_bert.",
    "adapters.",
)
PRETRAINED_NOT_MODULES = (
    "Tokenizer",
    "TokenizerFast",
    "Config",
    "Processor",
    "Extractor",
    "Scheduler",
    "Arguments",
    "Trainer",
    "Pipeline",
    "Collator",
    "Callback",
    "TokenizerBase",
    "Dataset",
)
"""Endings of class names under PRETRAINED_ROOTS that are no modules."""

FORWARD_METHODS = frozenset(
    {
        "encode_image",
        "encode_text",
        "get_image_features",
        "get_text_features",
        "extract_features",
    }
)
"""Methods of modules that run parts of them with gradients, as ``forward`` does (timm, CLIP, transformers, fairseq)."""
FORWARD_METHODS_OF = {"diffusers.Autoencoder": frozenset({"encode", "decode"})}
"""Such methods of the classes whose names begin so; the ``encode`` of others may run under ``no_grad``."""

METRIC_ROOTS = ("torchmetrics.", "evaluate.", "ignite.metrics.", "sklearn.metrics.")
"""Objects that detach what they are given, or work under no_grad."""

DETACHING_SINK_METHODS = frozenset(
    {
        "log",
        "log_dict",
        "log_metrics",
        "add_scalar",
        "add_scalars",
        "add_histogram",
        "add_image",
        "set_postfix",
        "set_description",
        "info",
        "debug",
        "warning",
        "error",
        "write",
        "set_postfix_str",
    }
)
"""Methods of loggers and progress bars: they format their arguments and keep no tensor."""

TRAINERS = frozenset(
    {
        "lightning.Trainer",
        "lightning.pytorch.Trainer",
        "pytorch_lightning.Trainer",
        "transformers.Trainer",
        "transformers.TrainingArguments",
        "transformers.Seq2SeqTrainingArguments",
    }
)
"""What chooses the device itself, and prefers an accelerator."""

PROCESS_GROUPS = (
    ACCELERATORS
    | FABRICS
    | ENGINE_FACTORIES
    | frozenset(
        {
            "torch.distributed.init_process_group",
            "torch.distributed.barrier",
            "torch.distributed.all_reduce",
            "torch.distributed.all_gather",
            "torch.distributed.all_gather_object",
            "torch.distributed.broadcast",
            "torch.distributed.broadcast_object_list",
            "torch.multiprocessing.spawn",
            "torch.nn.parallel.DistributedDataParallel",
            "torch.nn.parallel.distributed.DistributedDataParallel",
            "torch.distributed.fsdp.FullyShardedDataParallel",
            "torch.distributed.fsdp.fully_shard",
            "torch.utils.data.distributed.DistributedSampler",
            "torch.utils.data.DistributedSampler",
            "apex.parallel.DistributedDataParallel",
            "horovod.torch.init",
        }
    )
)
"""Calls that only a program of several processes makes, one for each device."""

RANK_ATTRIBUTES = frozenset(
    {
        "rank",
        "local_rank",
        "global_rank",
        "process_index",
        "local_process_index",
        "is_main_process",
        "is_local_main_process",
        "is_last_process",
        "is_global_zero",
        "is_world_process_zero",
    }
)
"""Attributes of accelerators, trainers, strategies and parsed arguments that tell the processes apart."""

RANK_FUNCTIONS = frozenset({"get_rank", "get_local_rank", "get_node_local_rank", "get_ordinal", "is_main_process"})
"""Functions of ``torch.distributed``, Horovod, torch_xla, detectron2 and their kin that tell the processes apart."""

LAYER_FIELDS = frozenset({"hidden_states", "attentions", "cross_attentions", "past_key_values"})
"""Fields of what models of transformers return that hold an element for each layer."""

OTHER_TENSOR_LIBRARIES = frozenset(
    {"chainer", "jax", "keras", "megengine", "mindspore", "mxnet", "oneflow", "paddle", "tensorflow", "tinygrad"}
)
"""Libraries whose models and optimizers have methods of the same names, and other memory."""
TORCH_LIBRARIES = frozenset(
    """
    accelerate catalyst deepspeed diffusers fairseq fastai ignite lightning mmcv mmengine peft pytorch_lightning timm
    torch torchaudio torchmetrics torchvision transformers trl
    """.split()
)
"""Libraries that are, or are built on, PyTorch."""
