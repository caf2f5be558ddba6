"""The shipped classifier and exhaustive weight files."""

from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from case_jax import CaseJaxError
from case_jax.data import DigitScenes
from case_jax.imageops import normalise_image
from case_jax.models import MODELS, load_classifier, load_weights, model, save_weights, tap_classifier
from case_jax.models.digit_resnet import DigitResNet
from case_jax.models.weights import flat_state


class Small(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.blocks = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)])
        self.bn = nnx.BatchNorm(3, rngs=rngs)


@pytest.fixture
def saved(tmp_path):
    """A weights file of a small module, and its arrays."""
    path = tmp_path / "small.safetensors"
    save_weights(path, Small(), metadata={"answer": 42, "names": ["a", "b"]})
    return path, load_file(path)


def test_saved_weights_come_back_exactly_with_their_metadata(saved):
    path, arrays = saved
    other = Small(seed=1)
    before = {name: np.asarray(v[...]) for name, v in flat_state(other).items()}
    assert load_weights(path, other) == {"answer": 42, "names": ["a", "b"]}
    assert (
        set(arrays)
        == set(before)
        == {f"blocks.{i}.{k}" for i in (0, 1) for k in ("kernel", "bias")}
        | {f"bn.{k}" for k in ("scale", "bias", "mean", "var")}
    )
    for name, value in flat_state(other).items():
        np.testing.assert_array_equal(value[...], arrays[name])
    assert (before["blocks.1.kernel"] != arrays["blocks.1.kernel"]).any()
    np.testing.assert_array_equal(other.blocks[1].kernel[...], arrays["blocks.1.kernel"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("bn.mean"), r"in the file only \(0\): –\n  in the model only \(1\): bn\.mean\n"),
        (lambda a: a.update(fc=np.zeros(2)), r"in the file only \(1\): fc\n  in the model only \(0\): –\n"),
        (lambda a: a.update({"bn.var": np.ones(4)}), r"other shape \(1\): bn\.var: file \(4,\), model \(3,\)"),
        (
            lambda a: a.update({"bn.moving_mean": a.pop("bn.mean")}),
            r"\(1\): bn\.moving_mean\n  in the model only \(1\): bn\.mean",
        ),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused_by_key(saved, change, message):
    path, arrays = saved
    change(arrays)
    save_file(arrays, path)
    untouched = Small(seed=1)
    before = {name: np.asarray(v[...]) for name, v in flat_state(untouched).items()}
    with pytest.raises(CaseJaxError, match=message):
        load_weights(path, untouched)
    for name, value in flat_state(untouched).items():
        np.testing.assert_array_equal(value[...], before[name])


def test_no_more_than_ten_keys_of_each_side_are_named(saved):
    path, arrays = saved
    save_file(arrays | {f"extra.{i:02d}": np.zeros(1) for i in range(30)}, path)
    with pytest.raises(CaseJaxError, match=r"in the file only \(30\): extra\.00, .*extra\.09\n"):
        load_weights(path, Small())


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\xff" * 64])
def test_damaged_files_are_refused(saved, damage):
    path, _ = saved
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CaseJaxError, match=r"weights: .* is not a readable safetensors file"):
        load_weights(path, Small())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaseJaxError, match=r"weights: no file at .*nothing\.safetensors"):
        load_classifier(weights=tmp_path / "nothing.safetensors")


def test_weights_of_another_architecture_are_refused(saved):
    with pytest.raises(CaseJaxError, match="does not fit DigitResNet"):
        load_classifier(weights=saved[0])


def test_the_shipped_weights_are_small():
    for entry in MODELS.values():
        assert (files("case_jax.models") / entry.weights).stat().st_size < 1e6


def test_the_shipped_classifier_is_accurate_and_its_two_classes_compete(classifier, tapped):
    source = DigitScenes("test", 500, seed=11)
    scenes = [source.scene(i) for i in range(500)]
    facts = classifier.entry.preprocessing

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


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_keeps_its_promises(name):
    entry = MODELS[name]
    loaded = load_classifier(name)
    side = entry.preprocessing.crop
    image = jnp.asarray(np.random.default_rng(0).normal(size=(side, side, 3)), jnp.float32)
    assert entry.layers[0] in entry.channelwise_layers
    for layer in entry.channelwise_layers:
        assert tap_classifier(loaded, image, layer=layer).head_kernel is not None  # checked against the pullback
    default = tap_classifier(loaded, image)
    assert (default.layer, default.num_classes) == (entry.layers[0], len(entry.class_names))


def test_layers_before_the_last_block_have_no_closed_form(classifier, images):
    assert tap_classifier(classifier, images[0], layer="blocks.1").head_kernel is None


@pytest.mark.parametrize(
    ("options", "images", "logits"),
    [({}, (2, 48, 48, 3), (2, 25)), ({"num_classes": 7, "widths": (2, 3, 4)}, (1, 16, 16, 3), (1, 7))],
)
def test_the_default_network_has_the_documented_shapes(options, images, logits):
    assert jax.eval_shape(lambda: DigitResNet(**options, rngs=nnx.Rngs(0))(jnp.zeros(images))).shape == logits


def test_an_unknown_model_suggests_the_nearest():
    with pytest.raises(CaseJaxError, match=r"model: 'digit-resnet' is unknown\. Did you mean 'digit_resnet'\?"):
        model("digit-resnet")
