"""The conversion of PyTorch state dicts, against the key lists of torchvision and timm."""

import gzip
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from case_jax import CaseJaxError
from case_jax.models import convnext, densenet, efficientnet_lite, resnet, swin, vgg, vit
from case_jax.models.torch_names import from_torch, layout_of, match_torch, network_sizes
from case_jax.models.weights import abstract

FAMILIES = {
    "resnet": resnet,
    "vgg": vgg,
    "densenet": densenet,
    "convnext": convnext,
    "efficientnet_lite": efficientnet_lite,
    "vit": vit,
    "deit3": vit,
    "swin": swin,
}
LITE_DEPTHS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite3": (1, 3, 3, 5, 5, 6, 1),
    "efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1),
}
TIMM_ALONE = (*(f"deit3_{size}_16" for size in "sbl"), "vit_medium_reg4", "vit_betwixt_reg4")
NETWORKS = (
    *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
    *(f"vgg{n}_bn" for n in (11, 13, 16, 19)),
    *(f"densenet{n}" for n in (121, 169, 201)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *LITE_DEPTHS,
    *(f"swin_{size}" for size in ("tiny", "small", "base")),
    *(f"vit_{size}_16" for size in "sbl"),
    *TIMM_ALONE,
)


VIT = {"width": 384, "depth": 12, "heads": 6, "hidden": 1536, "patch": 16, "image_size": 224} | {
    "class_token": True,
    "registers": 0,
    "placed": True,
    "layer_scale": False,
}


def file_of(name):
    return next(module for prefix, module in FAMILIES.items() if name.startswith(prefix))


@cache
def key_list(package):
    """Key → shape of every network, as the package itself names them."""
    path = Path(__file__).parent / "goldens" / "keys" / f"{package}.json.gz"
    networks = json.loads(gzip.decompress(path.read_bytes()))["networks"]
    return {name: {key: tuple(shape) for key, shape in keys.items()} for name, keys in networks.items()}


@cache
def network(name):
    """A network of shapes alone, with a class count of 1,000."""
    return abstract(getattr(file_of(name), name), 1000)


def variables(module):
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module))}


LISTED = [(p, name) for p in ("torchvision", "timm", "efficientnet-lite-pytorch") for name in key_list(p)]


def test_every_network_has_its_key_lists():
    assert set(key_list("timm")) == set(NETWORKS)
    assert set(key_list("efficientnet-lite-pytorch")) == set(LITE_DEPTHS)
    assert set(key_list("torchvision")) == set(NETWORKS) - {"vit_s_16", *TIMM_ALONE, *LITE_DEPTHS}


@pytest.mark.parametrize(("package", "name"), LISTED)
def test_every_key_fills_one_variable_and_every_variable_has_a_key(package, name):
    shapes, module, family = key_list(package)[name], network(name), file_of(name).FAMILY
    plan = match_torch(shapes, module, family=family)
    assert list(plan) == list(variables(module))
    counters = [key for key in shapes if key.endswith(("num_batches_tracked", "relative_position_index"))]
    assert sorted([source.key for source in plan.values()] + counters) == sorted(shapes)
    assert sum(np.prod(shapes[source.key]) for source in plan.values()) == sum(
        np.prod(variable.shape) for variable in variables(module).values()
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet34", {"block": resnet.BasicBlock, "depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": 64}),
        ("resnet101", {"block": resnet.Bottleneck, "depths": (3, 4, 23, 3), "widths": (64, 128, 256, 512), "stem": 64}),
        (
            "vgg16_bn",
            {
                "stages": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
                "hidden": (4096, 4096),
            },
        ),
        ("densenet169", {"depths": (6, 12, 32, 32), "growth": 32, "stem": 64, "bottleneck": 4}),
        ("convnext_base", {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)}),
        (
            "efficientnet_lite4",
            {
                "depths": LITE_DEPTHS["efficientnet_lite4"],
                "widths": (24, 32, 56, 112, 160, 272, 448),
                "stem": 32,
                "features": 1280,
            },
        ),
        (
            "swin_base",
            {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 7, "patch": 4},
        ),
        ("vit_s_16", VIT),
        ("vit_b_16", VIT | {"width": 768, "heads": 12, "hidden": 3072}),
        (
            "deit3_l_16",
            VIT | {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096, "placed": False, "layer_scale": True},
        ),
        (
            "vit_medium_reg4",
            VIT
            | {"width": 512, "heads": 8, "hidden": 2048, "image_size": 256}
            | {"class_token": False, "registers": 4, "placed": False, "layer_scale": True},
        ),
    ],
)
def test_sizes_are_read_from_names_and_shapes(name, sizes):
    for package in ("torchvision", "timm", "efficientnet-lite-pytorch"):
        if name in key_list(package):
            shapes = dict(key_list(package)[name])
            assert network_sizes(shapes, file_of(name).FAMILY) == sizes | {"num_classes": 1000}


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "vgg11_bn",
        "densenet121",
        "convnext_tiny",
        "efficientnet_lite2",
        "vit_s_16",
        "vit_betwixt_reg4",
        "swin_tiny",
    ],
)
def test_the_sizes_that_are_read_build_the_named_network(name):
    family = file_of(name).FAMILY
    sizes = network_sizes(key_list("timm")[name], family) | {"num_classes": 13}
    sizes.pop("num_classes")
    built = abstract(lambda n, *, rngs: family.build(**sizes, num_classes=n, rngs=rngs), 1000)
    assert {path: v.shape for path, v in variables(built).items()} == {
        path: v.shape for path, v in variables(network(name)).items()
    }


def timm_name(key, name):
    """timm's key for torchvision's, written out the other way round than the package does."""
    if name.startswith("vgg"):
        for ours, theirs in (
            ("classifier.0", "pre_logits.fc1"),
            ("classifier.3", "pre_logits.fc2"),
            ("classifier.6", "head.fc"),
        ):
            key = key.replace(ours, theirs)
    elif name.startswith("convnext"):
        top, *rest = key.split(".")
        if top == "classifier":
            return f"head.{'norm' if rest[0] == '0' else 'fc'}.{rest[1]}"
        index, part, *rest = rest
        if index == "0":
            return f"stem.{part}.{rest[0]}"
        if int(index) % 2 == 0:
            return f"stages.{int(index) // 2}.downsample.{part}.{rest[0]}"
        inner = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
        leaf = "gamma" if rest[0] == "layer_scale" else f"{inner[rest[1]]}.{rest[2]}"
        return f"stages.{int(index) // 2}.blocks.{part}.{leaf}"
    elif name.startswith("efficientnet_lite"):
        return timm_name_of_lite(key.removeprefix("_").replace("._", "."), LITE_DEPTHS[name])
    elif name.startswith("swin"):
        return timm_name_of_swin(key)
    elif name.startswith("vit"):
        outer = {
            "class_token": "cls_token",
            "encoder.pos_embedding": "pos_embed",
            "conv_proj": "patch_embed.proj",
            "encoder.ln": "norm",
            "heads.head": "head",
        }
        for ours, theirs in outer.items():
            if key == ours or key.startswith(f"{ours}."):
                return theirs + key.removeprefix(ours)
        layer, part, *rest = key.removeprefix("encoder.layers.encoder_layer_").split(".")
        inner = {
            ("ln_1",): "norm1",
            ("ln_2",): "norm2",
            ("self_attention", "out_proj"): "attn.proj",
            ("mlp", "0"): "mlp.fc1",
            ("mlp", "3"): "mlp.fc2",
        }
        if rest[0].startswith("in_proj_"):
            return f"blocks.{layer}.attn.qkv.{rest[0].removeprefix('in_proj_')}"
        return f"blocks.{layer}.{inner[(part, *rest[:-1])]}.{rest[-1]}"
    return key


def timm_name_of_swin(key):
    """The same of a Swin transformer's key."""
    top, *rest = key.split(".")
    if top == "head":
        return f"head.fc.{rest[0]}"
    if top != "features":
        return key
    index, part, *rest = rest
    if index == "0":
        return f"patch_embed.{'proj' if part == '0' else 'norm'}.{rest[0]}"
    if int(index) % 2 == 0:
        return ".".join(["layers", str(int(index) // 2), "downsample", part, *rest])
    if rest[0] == "mlp":
        rest[1] = {"0": "fc1", "3": "fc2"}[rest[1]]
    return ".".join(["layers", str(int(index) // 2), "blocks", part, *rest])


def timm_name_of_lite(key, depths):
    """The same of an EfficientNet-Lite's key without underscores."""
    top, *rest = key.split(".")
    if top != "blocks":
        return ".".join([{"bn0": "bn1", "bn1": "bn2", "fc": "classifier"}.get(top, top), *rest])
    number, part, *rest = rest
    stage, block = [(s, b) for s, depth in enumerate(depths) for b in range(depth)][int(number)]
    first = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    inner = {
        "expand_conv": "conv_pw",
        "bn0": "bn1",
        "depthwise_conv": "conv_dw",
        "bn1": "bn2",
        "project_conv": "conv_pwl",
        "bn2": "bn3",
    }
    return ".".join(["blocks", str(stage), str(block), (inner if stage else first)[part], *rest])


def publisher(name):
    """The package whose keys timm's are compared with."""
    return "efficientnet-lite-pytorch" if name in LITE_DEPTHS else "torchvision"


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in {"vit_s_16", *TIMM_ALONE}])
def test_both_packages_keys_lead_to_the_same_variables(name):
    family = file_of(name).FAMILY
    ours, theirs = (match_torch(key_list(p)[name], network(name), family=family) for p in (publisher(name), "timm"))
    assert {path: timm_name(source.key, name) for path, source in ours.items()} == {
        path: source.key for path, source in theirs.items()
    }


def counted(shapes):
    """A state dict in which every array counts up, from where the one before it in its own sequence has been left."""
    return {
        key: np.arange(i, i + int(np.prod(shape)), dtype=np.float32).reshape(shape)
        for i, (key, shape) in enumerate(shapes.items())
    }


LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torchvision_key(path):
    """The key of a variable, from its path alone."""
    if path.endswith(("layer_scale", "class_token", "pos_embedding", "bias_table")):
        return path
    parent, leaf = path.rsplit(".", 1)
    return f"{parent}_{LEAF[leaf]}" if parent.endswith("in_proj") else f"{parent}.{LEAF[leaf]}"


def expected_from(stored, path, found):
    """What a variable must hold: torch's array with the input channel second to last and the output channel last."""
    if stored.ndim == found.ndim == 4:
        return np.moveaxis(stored, [0, 1], [3, 2])
    if path == "classifier.0.kernel" and found.shape[0] == 25088:
        return None  # looked at one by one
    if path.endswith(".kernel"):
        return stored.reshape(stored.shape[:2]).T
    return stored.reshape(found.shape)


@pytest.mark.parametrize("timm", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "densenet201",
        "convnext_tiny",
        "efficientnet_lite0",
        "vit_b_16",
        pytest.param("vgg19_bn", marks=pytest.mark.slow),
    ],
)
def test_full_size_arrays_land_where_they_belong(timm, name):
    shapes = key_list("timm" if timm else publisher(name))[name]
    state = counted(shapes)
    arrays = from_torch(state, network(name), family=file_of(name).FAMILY)
    assert list(arrays) == list(variables(network(name)))
    rng = np.random.default_rng(0)
    for path, found in arrays.items():
        key = torchvision_key(path)
        if name in LITE_DEPTHS and not timm:
            *modules, leaf = key.split(".")
            key = ".".join([*(part if part.isdigit() else f"_{part}" for part in modules), leaf])
        stored = state[timm_name(key, name) if timm else key]
        expected = expected_from(stored, path, found)
        if expected is not None:
            np.testing.assert_array_equal(found, expected, err_msg=path)
            continue
        o, c, h, w = (rng.integers(n, size=10_000) for n in (4096, 512, 7, 7))
        np.testing.assert_array_equal(found[(h * 7 + w) * 512 + c, o], stored.reshape(4096, 512, 7, 7)[o, c, h, w])


SMALL = {
    "resnet": {"block": resnet.BasicBlock, "depths": (1, 1, 1, 1), "widths": (2, 3, 4, 5), "stem": 2},
    "vgg": {"stages": ((2, 3), (4,)), "hidden": (5, 6)},
    "densenet": {"depths": (1, 2), "growth": 2, "stem": 4, "bottleneck": 3},
    "convnext": {"depths": (1, 2), "widths": (3, 4)},
    "vit": VIT | {"width": 64, "depth": 2, "heads": 1, "hidden": 5, "patch": 4, "image_size": 8},
    "swin": {"width": 4, "depths": (1, 2), "heads": (1, 2), "window": 3, "patch": 2},
}


@pytest.fixture
def small():
    """A small network by family, of shapes alone."""

    def build(name, classes=3):
        make = FAMILIES[name].FAMILY.build
        return abstract(lambda n, *, rngs: make(**SMALL[name], num_classes=n, rngs=rngs), classes)

    return build


def state_for(module):
    """A random state dict under torchvision's names that fits a module."""
    rng = np.random.default_rng(0)
    state = {}
    for path, variable in variables(module).items():
        a = rng.normal(size=variable.shape).astype(np.float32)
        if path == "classifier.0.kernel" and isinstance(module, vgg.VGG):
            state["classifier.0.weight"] = a.reshape(7, 7, -1, a.shape[-1]).transpose(3, 2, 0, 1).reshape(a.shape[::-1])
        elif path.endswith("layer_scale"):
            state[path] = a.reshape(-1, 1, 1)
        else:
            kernel = path.endswith(".kernel")
            state[torchvision_key(path)] = (a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T) if kernel else a
    return state


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_is_rebuilt_and_filled_from_its_state_dict(small, name):
    module, family = small(name), FAMILIES[name].FAMILY
    state = state_for(module)
    assert network_sizes({k: a.shape for k, a in state.items()}, family) == SMALL[name] | {"num_classes": 3}
    again = from_torch(state, module, family=family)
    rng = np.random.default_rng(0)
    for path, variable in variables(module).items():
        np.testing.assert_array_equal(again[path], rng.normal(size=variable.shape).astype(np.float32), err_msg=path)


def test_batch_counters_are_used_up_only_beside_a_batch_normalisation(small):
    module = small("resnet")
    state = state_for(module)
    plain = from_torch(state, module, family=resnet.FAMILY)
    with_counters = from_torch(
        state | {"bn1.num_batches_tracked": np.array(7), "layer4.0.bn2.num_batches_tracked": np.array(7)},
        module,
        family=resnet.FAMILY,
    )
    assert all((plain[path] == a).all() for path, a in with_counters.items())
    with pytest.raises(CaseJaxError, match=r"in the file only \(1\): conv1\.num_batches_tracked\n"):
        from_torch(state | {"conv1.num_batches_tracked": np.array(7)}, module, family=resnet.FAMILY)


@pytest.mark.parametrize(
    ("name", "pattern", "old"),
    [
        ("densenet", r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2"),
        ("vit", r"mlp\.0\.", "mlp.linear_1."),
        ("vit", r"mlp\.3\.", "mlp.linear_2."),
    ],
)
def test_older_files_give_the_same_arrays(small, name, pattern, old):
    module, family = small(name), FAMILIES[name].FAMILY
    state = state_for(module)
    renamed = {re.sub(pattern, old, key): a for key, a in state.items()}
    assert len(renamed.keys() - state.keys()) >= 4
    expected = from_torch(state, module, family=family)
    for path, a in from_torch(renamed, module, family=family).items():
        np.testing.assert_array_equal(a, expected[path])


def test_swin_files_that_merge_patches_at_a_stage_s_end_give_the_same_arrays():
    shapes, module = key_list("timm")["swin_tiny"], network("swin_tiny")
    older = {re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k): k for k in shapes}
    older = {re.sub(r"^head\.fc\.", "head.", new): key for new, key in older.items()}
    computed = {"layers.0.blocks.1.attn_mask": (64, 49, 49), "layers.0.blocks.0.attn.relative_position_index": (49, 49)}
    expected = match_torch(shapes, module, family=swin.FAMILY)
    found = match_torch({new: shapes[key] for new, key in older.items()} | computed, module, family=swin.FAMILY)
    assert {path: older[source.key] for path, source in found.items()} == {path: s.key for path, s in expected.items()}


def test_a_scale_is_accepted_as_a_vector_and_per_channel(small):
    module = small("convnext")
    state = state_for(module)
    flat = {key: a.reshape(-1) if key.endswith("layer_scale") else a for key, a in state.items()}
    for path, a in from_torch(flat, module, family=convnext.FAMILY).items():
        np.testing.assert_array_equal(a, from_torch(state, module, family=convnext.FAMILY)[path])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_precision_is_kept(small, dtype):
    module = small("vgg")
    state = {key: a.astype(dtype) for key, a in state_for(module).items()}
    assert {a.dtype for a in from_torch(state, module, family=vgg.FAMILY).values()} == {np.dtype(dtype)}


def test_the_layout_is_told_from_the_keys():
    for package, name in LISTED:
        layout = layout_of(key_list(package)[name], file_of(name).FAMILY)
        assert layout is not None
        assert package in layout.name
        for other in FAMILIES.values():
            if other is not file_of(name):
                assert layout_of(key_list(package)[name], other.FAMILY) is None, (name, other)


def without(*keys):
    return lambda state: {key: a for key, a in state.items() if key not in keys}


def changed(**arrays):
    return lambda state: state | {key.replace("__", "."): a for key, a in arrays.items()}


def nan_in(key):
    def change(state):
        bad = state[key].copy()
        bad.flat[-1] = np.nan
        return state | {key: bad}

    return change


BAD = [
    ("resnet", without("layer4.0.conv2.weight"), r"in the model only \(1\): layer4\.0\.conv2\.kernel\n"),
    ("resnet", without("bn1.running_var"), r"does not fit ResNet\.\n  in the file only \(0\): –\n.* bn1\.var\n"),
    ("resnet", changed(extra=np.zeros(2)), r"in the file only \(1\): extra\n  in the model only \(0\): –\n"),
    ("resnet", without("fc.weight", "fc.bias"), r"holds no classifier \(fc\.weight\).*take a file with a head"),
    (
        "resnet",
        changed(fc__weight=np.zeros((7, 5)), fc__bias=np.zeros(7)),
        r"for 7 classes and the model for 3: build the model with num_classes=7\.\n"
        r"(.*\n)*  other shape \(2\): fc\.bias: file \(7,\), model \(3,\); fc\.weight: file \(7, 5\), model \(3, 5\)",
    ),
    (
        "resnet",
        changed(conv1__weight=np.zeros((7, 7, 3, 2))),
        r"conv1\.weight: file \(7, 7, 3, 2\), model \(2, 3, 7, 7\)",
    ),
    ("resnet", nan_in("layer2.0.bn1.weight"), r"no finite floating-point numbers in layer2\.0\.bn1\.weight\."),
    ("resnet", changed(fc__bias=np.zeros(3, np.int32)), r"no finite floating-point numbers in fc\.bias\."),
    (
        "resnet",
        lambda s: {f"backbone.{k}": a for k, a in s.items()},
        r"holds no ResNet under names that are known.*layer1\.N\.",
    ),
    ("resnet", lambda s: {}, r"holds no ResNet .* Its keys \(0\): –"),
    (
        "vgg",
        lambda s: {k.replace("classifier.6", "head.fc"): a for k, a in s.items()},
        r"holds no classifier \(classifier\.6",
    ),
    (
        "vgg",
        changed(pre_logits__fc1__bias=np.zeros(5)),
        r"holds classifier\.0\.bias twice, as classifier\.0\.bias and as pre_",
    ),
    ("densenet", changed(features__norm5__beta=np.zeros(2)), r"in the file only \(1\): features\.norm5\.beta"),
    ("convnext", without("features.1.0.layer_scale"), r"in the model only \(1\): features\.1\.0\.layer_scale\n"),
    ("vit", without("class_token"), r"in the model only \(1\): class_token\n"),
    (
        "vit",
        lambda s: (
            {k.replace("in_proj_weight", "in_proj.weight"): a for k, a in s.items()}
            | {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight": np.zeros((192, 64))}
        ),
        r"encoder_layer_0\.self_attention\.in_proj\.weight twice",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_a_state_dict_that_does_not_fit_exactly_is_refused(small, name, change, message):
    module = small(name)
    with pytest.raises(CaseJaxError, match=f"(?s)weights: photo.pt .*{message}"):
        from_torch(change(state_for(module)), module, family=FAMILIES[name].FAMILY, source="photo.pt")


def test_no_more_than_ten_keys_of_each_side_are_named(small):
    module = small("resnet")
    state = {f"wrong.{i:02d}" if i < 15 else key: a for i, (key, a) in enumerate(sorted(state_for(module).items()))}
    with pytest.raises(
        CaseJaxError, match=r"in the file only \(15\): wrong\.00, .*, wrong\.09\n  in the model only \(15\): "
    ) as e:
        from_torch(state, module, family=resnet.FAMILY)
    assert str(e.value).count("wrong.") == 10


NO_SIZES = [
    (
        "swin",
        changed(features__1__0__attn__relative_position_bias_table=np.zeros((24, 1))),
        r"24 rows, no \(2 · window",
    ),
    ("vit", changed(fc_norm__weight=np.zeros(64)), r"both a class token and a normalisation of the mean token"),
    ("resnet", without("fc.weight"), r"holds no classifier .* fc\.weight is missing"),
    ("resnet", without("conv1.weight"), r"ResNet\. conv1\.weight is missing"),
    ("resnet", changed(fc__weight=np.zeros(3)), r"fc\.weight has shape \(3,\), but an array of 2 axes"),
    ("resnet", changed(conv1__weight=np.zeros((0, 3, 7, 7))), r"conv1\.weight has shape \(0, 3, 7, 7\)"),
    ("vgg", without("features.0.weight"), r"features\.3 is a convolution where features\.0 was expected"),
    (
        "densenet",
        lambda s: {k: a for k, a in s.items() if "block2.denselayer1." not in k},
        r"count on from 1, but there are \[2\]",
    ),
    (
        "convnext",
        lambda s: {k: a for k, a in s.items() if not k.startswith("features.3.0.")},
        r"from 0, but there are \[1\]",
    ),
    (
        "vit",
        changed(encoder__pos_embedding=np.zeros((1, 7, 64))),
        r"7 positions, which form no square, with or without 1 ",
    ),
    ("vit", changed(conv_proj__weight=np.zeros((60, 3, 4, 4))), r"tokens of length 60, no multiple of a head's 64"),
    ("vit", lambda s: {k: a for k, a in s.items() if "layer_0." not in k}, r"count on from 0, but there are \[1\]"),
]


@pytest.mark.parametrize(("name", "change", "message"), NO_SIZES)
def test_sizes_that_cannot_be_read_are_named(small, name, change, message):
    shapes = {key: a.shape for key, a in change(state_for(small(name))).items()}
    with pytest.raises(CaseJaxError, match=f"weights: photo.pt is no complete .*{message}"):
        network_sizes(shapes, FAMILIES[name].FAMILY, source="photo.pt")
