"""What parameters the modules of ``torch.nn`` have, as functions of their arguments.

Source of the formulas: the constructors in ``torch/nn/modules`` of PyTorch 2.13; tests compare them with the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from memlint.model.sizes.objects import PLAIN, External, ModuleObject, Parameter, Unknown

_Build = Callable[[ModuleObject, Mapping[str, Any]], None]


class NotConstant(Exception):
    """An argument that decides about the parameters is not known."""


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise NotConstant
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, Unknown) or value is None:
        raise NotConstant
    return bool(value)


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        if len(value) == 1:
            return (_whole(value[0]),) * count
        return tuple(_whole(each) for each in value)
    return (_whole(value),) * count


def _add(module: ModuleObject, name: str, *shape: int) -> None:
    module.attributes[name] = Parameter(prod(shape), tuple(shape))


def _optional(module: ModuleObject, name: str, wanted: Any, *shape: int) -> None:
    if _flag(wanted):
        _add(module, name, *shape)
    else:
        module.attributes[name] = None


def _linear(module: ModuleObject, given: Mapping[str, Any]) -> None:
    into, out = _whole(given["in_features"]), _whole(given["out_features"])
    _add(module, "weight", out, into)
    _optional(module, "bias", given["bias"], out)


def _bilinear(module: ModuleObject, given: Mapping[str, Any]) -> None:
    out = _whole(given["out_features"])
    _add(module, "weight", out, _whole(given["in1_features"]), _whole(given["in2_features"]))
    _optional(module, "bias", given["bias"], out)


def _convolution(dimensions: int, *, transposed: bool = False) -> _Build:
    def build(module: ModuleObject, given: Mapping[str, Any]) -> None:
        into, out, groups = _whole(given["in_channels"]), _whole(given["out_channels"]), _whole(given["groups"])
        kernel = _sizes(given["kernel_size"], dimensions)
        first, second = (into, out) if transposed else (out, into)
        _add(module, "weight", first, second // groups, *kernel)
        _optional(module, "bias", given["bias"], out)

    return build


def _embedding(module: ModuleObject, given: Mapping[str, Any]) -> None:
    _add(module, "weight", _whole(given["num_embeddings"]), _whole(given["embedding_dim"]))


def _batch_norm(module: ModuleObject, given: Mapping[str, Any]) -> None:
    features = _whole(given["num_features"])
    _optional(module, "weight", given["affine"], features)
    _optional(module, "bias", given["affine"], features)


def _group_norm(module: ModuleObject, given: Mapping[str, Any]) -> None:
    channels = _whole(given["num_channels"])
    _optional(module, "weight", given["affine"], channels)
    _optional(module, "bias", given["affine"], channels)


def _layer_norm(module: ModuleObject, given: Mapping[str, Any]) -> None:
    shape = _sizes(given["normalized_shape"], 1)
    affine = _flag(given["elementwise_affine"])
    _optional(module, "weight", affine, *shape)
    _optional(module, "bias", affine and _flag(given["bias"]), *shape)


def _rms_norm(module: ModuleObject, given: Mapping[str, Any]) -> None:
    _optional(module, "weight", given["elementwise_affine"], *_sizes(given["normalized_shape"], 1))


def _prelu(module: ModuleObject, given: Mapping[str, Any]) -> None:
    _add(module, "weight", _whole(given["num_parameters"]))


def _recurrent(gates: int) -> _Build:
    def build(module: ModuleObject, given: Mapping[str, Any]) -> None:
        hidden, layers = _whole(given["hidden_size"]), _whole(given["num_layers"])
        projected = _whole(given["proj_size"])
        directions = 2 if _flag(given["bidirectional"]) else 1
        output = projected or hidden
        for layer in range(layers):
            into = _whole(given["input_size"]) if layer == 0 else output * directions
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                _add(module, f"weight_ih{suffix}", gates * hidden, into)
                _add(module, f"weight_hh{suffix}", gates * hidden, output)
                if _flag(given["bias"]):
                    _add(module, f"bias_ih{suffix}", gates * hidden)
                    _add(module, f"bias_hh{suffix}", gates * hidden)
                if projected:
                    _add(module, f"weight_hr{suffix}", projected, hidden)

    return build


def _recurrent_cell(gates: int) -> _Build:
    def build(module: ModuleObject, given: Mapping[str, Any]) -> None:
        into, hidden = _whole(given["input_size"]), _whole(given["hidden_size"])
        _add(module, "weight_ih", gates * hidden, into)
        _add(module, "weight_hh", gates * hidden, hidden)
        _optional(module, "bias_ih", given["bias"], gates * hidden)
        _optional(module, "bias_hh", given["bias"], gates * hidden)

    return build


def _attention(module: ModuleObject, given: Mapping[str, Any]) -> None:
    width = _whole(given["embed_dim"])
    key = width if given["kdim"] is None else _whole(given["kdim"])
    value = width if given["vdim"] is None else _whole(given["vdim"])
    if key == value == width:
        _add(module, "in_proj_weight", 3 * width, width)
    else:
        _add(module, "q_proj_weight", width, width)
        _add(module, "k_proj_weight", width, key)
        _add(module, "v_proj_weight", width, value)
    _optional(module, "in_proj_bias", given["bias"], 3 * width)
    module.attributes["out_proj"] = make("torch.nn.Linear", [width, width], {"bias": given["bias"]})
    if _flag(given["add_bias_kv"]):
        _add(module, "bias_k", 1, 1, width)
        _add(module, "bias_v", 1, 1, width)


def _transformer_layer(attentions: tuple[str, ...]) -> _Build:
    def build(module: ModuleObject, given: Mapping[str, Any]) -> None:
        width, inner = _whole(given["d_model"]), _whole(given["dim_feedforward"])
        bias = {"bias": given["bias"]}
        for name in attentions:
            module.attributes[name] = make("torch.nn.MultiheadAttention", [width, given["nhead"]], bias)
        module.attributes["linear1"] = make("torch.nn.Linear", [width, inner], bias)
        module.attributes["linear2"] = make("torch.nn.Linear", [inner, width], bias)
        for index in range(len(attentions) + 1):
            module.attributes[f"norm{index + 1}"] = make("torch.nn.LayerNorm", [width], bias)

    return build


def _stack(module: ModuleObject, given: Mapping[str, Any]) -> None:
    layer = given["layer"]
    if not isinstance(layer, ModuleObject):
        raise NotConstant
    copies = [copy_of(layer) for _ in range(_whole(given["num_layers"]))]
    module.attributes["layers"] = ModuleObject(External("torch.nn.ModuleList"), items=list(copies))
    module.attributes["norm"] = copy_of(given["norm"]) if isinstance(given["norm"], ModuleObject) else given["norm"]


def _transformer(module: ModuleObject, given: Mapping[str, Any]) -> None:
    if given["custom_encoder"] is not None or given["custom_decoder"] is not None:
        raise NotConstant
    names = ("d_model", "nhead", "dim_feedforward", "bias")
    for side in ("encoder", "decoder"):
        title = side.capitalize()
        layer = make(f"torch.nn.Transformer{title}Layer", [], {name: given[name] for name in names})
        norm = make("torch.nn.LayerNorm", [given["d_model"]], {"bias": given["bias"]})
        stack = make(f"torch.nn.Transformer{title}", [layer, given[f"num_{side}_layers"], norm], {})
        module.attributes[side] = stack


def _timm_attention(module: ModuleObject, given: Mapping[str, Any]) -> None:
    width = _whole(given["dim"])
    module.attributes["qkv"] = make("torch.nn.Linear", [width, 3 * width], {"bias": given["qkv_bias"]})
    module.attributes["proj"] = make("torch.nn.Linear", [width, width], {"bias": given["proj_bias"]})
    if _flag(given["qk_norm"]):
        raise NotConstant  # The class of the norm decides.


def _timm_mlp(module: ModuleObject, given: Mapping[str, Any]) -> None:
    width = _whole(given["in_features"])
    inner = width if given["hidden_features"] is None else _whole(given["hidden_features"])
    out = width if given["out_features"] is None else _whole(given["out_features"])
    module.attributes["fc1"] = make("torch.nn.Linear", [width, inner], {"bias": given["bias"]})
    module.attributes["fc2"] = make("torch.nn.Linear", [inner, out], {"bias": given["bias"]})


def _timm_patches(module: ModuleObject, given: Mapping[str, Any]) -> None:
    patch = _sizes(given["patch_size"], 2)
    arguments = [given["in_chans"], given["embed_dim"], patch]
    module.attributes["proj"] = make("torch.nn.Conv2d", arguments, {"bias": given["bias"]})
    image = _sizes(given["img_size"], 2)
    module.attributes["num_patches"] = (image[0] // patch[0]) * (image[1] // patch[1])


def _timm_block(module: ModuleObject, given: Mapping[str, Any]) -> None:
    width = _whole(given["dim"])
    ratio = given["mlp_ratio"]
    norm = getattr(given["norm_layer"], "function", given["norm_layer"])  # Of functools.partial.
    is_layer_norm = norm is None or str(getattr(norm, "name", "")).endswith("LayerNorm")
    if not isinstance(ratio, (int, float)) or not is_layer_norm or given["qk_norm"]:
        raise NotConstant
    bias = {"qkv_bias": given["qkv_bias"], "proj_bias": given["proj_bias"]}
    for name in ("norm1", "norm2"):
        module.attributes[name] = make("torch.nn.LayerNorm", [width], {})
    module.attributes["attn"] = make("timm.layers.Attention", [width], bias)
    module.attributes["mlp"] = make("timm.layers.Mlp", [width, int(width * ratio)], {"bias": given["proj_bias"]})
    if given["init_values"] is not None:
        # A LayerScale behind each half.
        _add(module, "ls1.gamma", width)
        _add(module, "ls2.gamma", width)


def _nothing(_module: ModuleObject, _given: Mapping[str, Any]) -> None:
    return


_CONVOLUTION = (
    "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, padding_mode='zeros'"
)
_TRANSPOSED = (
    "in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1"
)
_BATCH_NORM = "num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True"
_INSTANCE_NORM = "num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False"
_RECURRENT = (
    "input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0"
)
_CELL = "input_size, hidden_size, bias=True"
_LAYER = (
    "d_model, nhead, dim_feedforward=2048, dropout=0.1, activation=None, layer_norm_eps=1e-5, batch_first=False, "
    "norm_first=False, bias=True"
)
_TRANSFORMER = (
    "d_model=512, nhead=8, num_encoder_layers=6, num_decoder_layers=6, dim_feedforward=2048, dropout=0.1, "
    "activation=None, custom_encoder=None, custom_decoder=None, layer_norm_eps=1e-5, batch_first=False, "
    "norm_first=False, bias=True"
)
_TIMM_BLOCK = (
    "dim, num_heads, mlp_ratio=4, qkv_bias=False, qk_norm=None, proj_bias=True, proj_drop=0.0, attn_drop=0.0, "
    "init_values=None, drop_path=0.0, act_layer=None, norm_layer=None"
)
_LAYERS: dict[str, tuple[str, _Build]] = {
    "Linear": ("in_features, out_features, bias=True", _linear),
    "Bilinear": ("in1_features, in2_features, out_features, bias=True", _bilinear),
    "Embedding": ("num_embeddings, embedding_dim, padding_idx=None, max_norm=None", _embedding),
    "EmbeddingBag": ("num_embeddings, embedding_dim", _embedding),
    "LayerNorm": ("normalized_shape, eps=1e-5, elementwise_affine=True, bias=True", _layer_norm),
    "RMSNorm": ("normalized_shape, eps=None, elementwise_affine=True", _rms_norm),
    "GroupNorm": ("num_groups, num_channels, eps=1e-5, affine=True", _group_norm),
    "SyncBatchNorm": (_BATCH_NORM, _batch_norm),
    "PReLU": ("num_parameters=1, init=0.25", _prelu),
    "RNN": (_RECURRENT.replace("num_layers=1", "num_layers=1, nonlinearity='tanh'"), _recurrent(1)),
    "GRU": (_RECURRENT, _recurrent(3)),
    "LSTM": (_RECURRENT, _recurrent(4)),
    "RNNCell": (_CELL, _recurrent_cell(1)),
    "GRUCell": (_CELL, _recurrent_cell(3)),
    "LSTMCell": (_CELL, _recurrent_cell(4)),
    "MultiheadAttention": (
        "embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None, vdim=None",
        _attention,
    ),
    "TransformerEncoderLayer": (_LAYER, _transformer_layer(("self_attn",))),
    "TransformerDecoderLayer": (_LAYER, _transformer_layer(("self_attn", "multihead_attn"))),
    "TransformerEncoder": ("layer, num_layers, norm=None", _stack),
    "TransformerDecoder": ("layer, num_layers, norm=None", _stack),
    "Transformer": (_TRANSFORMER, _transformer),
    "timm.Attention": ("dim, num_heads=8, qkv_bias=False, qk_norm=False, proj_bias=True", _timm_attention),
    "timm.Mlp": (
        "in_features, hidden_features=None, out_features=None, act_layer=None, norm_layer=None, bias=True",
        _timm_mlp,
    ),
    "timm.Block": (_TIMM_BLOCK, _timm_block),
    "timm.PatchEmbed": (
        "img_size=224, patch_size=16, in_chans=3, embed_dim=768, norm_layer=None, flatten=True, bias=True",
        _timm_patches,
    ),
    **{f"Conv{n}d": (_CONVOLUTION, _convolution(n)) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": (_TRANSPOSED, _convolution(n, transposed=True)) for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": (_BATCH_NORM, _batch_norm) for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": (_INSTANCE_NORM, _batch_norm) for n in (1, 2, 3)},
}
_RENAMED = {"encoder_layer": "layer", "decoder_layer": "layer"}
_WITHOUT_PARAMETERS = frozenset(
    """
    Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout Flatten Unflatten
    ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Sigmoid Tanh Softplus Softsign
    Softmax Softmax2d LogSoftmax LogSigmoid GLU Threshold Tanhshrink Softshrink Hardshrink RReLU Softmin
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d MaxUnpool1d MaxUnpool2d MaxUnpool3d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    FractionalMaxPool2d FractionalMaxPool3d
    Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle Fold Unfold
    ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d
    ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d CircularPad1d CircularPad2d CircularPad3d
    LocalResponseNorm CrossMapLRN2d CosineSimilarity PairwiseDistance
    CrossEntropyLoss MSELoss L1Loss NLLLoss BCELoss BCEWithLogitsLoss SmoothL1Loss HuberLoss KLDivLoss CTCLoss
    TripletMarginLoss MarginRankingLoss CosineEmbeddingLoss HingeEmbeddingLoss GaussianNLLLoss PoissonNLLLoss
    SoftMarginLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss TripletMarginWithDistanceLoss
    """.split()
)
_ELSEWHERE = {
    f"timm.{package}.{name}": f"timm.{name}"
    for package in ("models.vision_transformer", "layers", "models.layers")
    for name in ("Attention", "Mlp", "PatchEmbed", "Block")
}
"""Layers of other libraries that models of their own are made of; formulas from timm 1.0."""
CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"})


def layer_name(qualified_name: str) -> str | None:
    """``Linear`` for ``torch.nn.Linear`` and the like; None for what is no known layer."""
    prefix, _, name = qualified_name.rpartition(".")
    if qualified_name in _ELSEWHERE:
        return _ELSEWHERE[qualified_name]
    if not (prefix == "torch.nn" or prefix.startswith("torch.nn.modules")):
        return None
    known = name in _LAYERS or name in _WITHOUT_PARAMETERS or name in CONTAINERS or name == "Module"
    return name if known else None


def make(qualified_name: str, arguments: list[Any], keywords: Mapping[str, Any]) -> ModuleObject:
    """The layer of that name with these arguments."""
    module = ModuleObject(External(qualified_name))
    build(module, qualified_name, arguments, keywords)
    return module


def build(module: ModuleObject, qualified_name: str, arguments: list[Any], keywords: Mapping[str, Any]) -> None:
    """Gives ``module`` what the constructor of the layer gives it; a doubt if an argument that matters is unknown."""
    name = layer_name(qualified_name)
    if name in CONTAINERS:
        _fill(module, name, arguments, keywords)
        return
    if name is None or name not in _LAYERS:
        module.attributes.setdefault("inplace", PLAIN)
        return
    signature, builder = _LAYERS[name]
    try:
        given = _bind(signature, arguments, keywords)
        module.attributes.update({key: value for key, value in given.items() if _is_plain(value)})
        builder(module, given)
    except (NotConstant, KeyError, ZeroDivisionError):
        module.doubt = "arguments of unknown value"


def reparametrize(module: ModuleObject, how: str, arguments: list[Any], keywords: Mapping[str, Any]) -> None:
    """``weight_norm`` and ``spectral_norm`` of a layer, of ``torch.nn.utils`` and its ``parametrizations``.

    The weight of the former becomes a direction of its shape and a length for each index of ``dim`` (one for all if
    ``dim`` is None); what the latter adds are buffers.
    """
    given = dict(zip(("name", "dim"), arguments, strict=False)) | dict(keywords)
    name = given.get("name", "weight")
    weight = module.attributes.get(name) if isinstance(name, str) else None
    dim = given.get("dim", 0)
    if not isinstance(weight, Parameter) or how not in {"weight_norm", "spectral_norm"}:
        module.doubt = module.doubt or f"changed by {how}"
    elif how == "weight_norm":
        if weight.shape is None or not (dim is None or isinstance(dim, int)):
            module.doubt = module.doubt or f"changed by {how}"
            return
        lengths = 1 if dim in (None, -1) else weight.shape[dim]
        module.attributes[f"{name}_g"] = Parameter(lengths, None, dict(weight.attributes))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str, tuple)) or value is None


def _bind(signature: str, arguments: list[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, with defaults. Raises NotConstant if they do not fit."""
    given: dict[str, Any] = {}
    names = []
    for part in signature.split(", "):
        name, _, default = part.partition("=")
        names.append(name)
        if default:
            given[name] = _DEFAULTS.get(default, default)
    if len(arguments) > len(names):
        arguments = arguments[: len(names)]
    given.update(zip(names, arguments, strict=False))
    given.update({_RENAMED.get(name, name): value for name, value in keywords.items()})
    return given


_DEFAULTS: dict[str, Any] = {
    "True": True,
    "False": False,
    "None": None,
    **{text: int(text) for text in ("0", "1", "3", "4", "6", "8", "16", "224", "512", "768", "2048")},
    **{text: float(text) for text in ("1e-5", "0.1", "0.0", "0.25")},
}


def _fill(module: ModuleObject, name: str, arguments: list[Any], keywords: Mapping[str, Any]) -> None:
    """The members of a container."""
    members: Any = arguments[0] if len(arguments) == 1 and name != "Sequential" else arguments
    if name == "Sequential" and len(arguments) == 1 and isinstance(arguments[0], dict):
        members = arguments[0]
    if not arguments and keywords:
        members = next(iter(keywords.values()))
    if members is None:
        members = []
    if isinstance(members, ModuleObject):
        members = list(members.items)
    module.doubt = module.doubt or str(getattr(members, "doubt", ""))
    if isinstance(members, dict):
        module.keys = [str(key) for key in members]
        members = list(members.values())
    if not isinstance(members, (list, tuple)):
        module.doubt = "members of unknown number"
        return
    module.items = list(members)
    if name.startswith("Parameter") and not all(isinstance(each, Parameter) for each in module.items):
        # Plain tensors become parameters, too.
        module.doubt = "parameters of unknown size"


def copy_of(value: Any, made: dict[int, Any] | None = None) -> Any:
    """A deep copy: parameters that were shared inside are shared in the copy."""
    made = {} if made is None else made
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, Parameter):
        result: Any = Parameter(value.numel, value.shape, dict(value.attributes))
    elif isinstance(value, ModuleObject):
        result = ModuleObject(value.cls, {}, value.doubt, value.open, value.place, [], list(value.keys), value.entry)
        made[id(value)] = result
        result.attributes = {name: copy_of(each, made) for name, each in value.attributes.items()}
        result.items = [copy_of(each, made) for each in value.items]
    elif isinstance(value, (list, tuple)):
        result = type(value)(copy_of(each, made) for each in value)
    elif isinstance(value, dict):
        result = type(value)({key: copy_of(each, made) for key, each in value.items()})
    else:
        return value
    if not isinstance(value, Parameter) and getattr(value, "doubt", None):
        result.doubt = value.doubt
    made[id(value)] = result
    return result
