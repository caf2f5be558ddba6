"""Haiku's functions, untouched: Grad-CAM and CASE of all classes against gradients written by hand, and the adapter's errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import CLASSES, EXTRA, compare, evaluated, image_of, several

from case_jax import CaseJaxError, tap_haiku
from case_jax.tap.parameters import parameter_layers
from case_jax.tap.tapping import check_closed_form

pytestmark = [pytest.mark.compat, pytest.mark.usefixtures("promotion_as_users_have_it")]


@pytest.fixture(scope="module")
def hk():
    return pytest.importorskip("haiku", reason=EXTRA)


def haiku_by_hand(hk, transformed, params, state, layer, image, **call):
    """The layer's output and every logit's gradient in it: that of a perturbation which is added to the output."""
    seen = []

    def logits(added):
        def intercept(own, args, kwargs, context):
            out = own(*args, **kwargs)
            if context.method_name != "__call__" or context.module.module_name != layer:
                return out
            seen.append(out)
            return out + added

        with hk.intercept_methods(intercept):
            return transformed.apply(params, state, None, image[None], **call)[0][0]

    shape = jax.eval_shape(lambda: (logits(0.0), seen.pop())[1]).shape

    @jax.jit
    def everything(added):
        found, activation = logits(added), seen.pop()
        gradients = jax.jacrev(logits)(added)
        seen.clear()
        return activation[0], gradients[:, 0], found

    return everything(jnp.zeros(shape))


def haiku_resnet(hk, blocks, widths, image):
    def forward(x, is_training):
        net = hk.nets.ResNet(blocks, CLASSES, bottleneck=True, channels_per_group=widths, name="resnet")
        return net(x, is_training)

    transformed = hk.transform_with_state(forward)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        noise, name = rng.standard_normal(leaf.shape).astype(np.float32), path[-1].key
        if name == "w":
            return jnp.asarray(noise / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(
            1 + 0.1 * np.abs(noise) if path[-2].key.endswith("var_ema") or name == "scale" else 0.1 * noise
        )

    shapes = jax.eval_shape(lambda: transformed.init(jax.random.key(0), image[None], True))
    params, state = jax.tree_util.tree_map_with_path(drawn, shapes)
    return transformed, params, jax.tree.map(lambda a, s: a.astype(s.dtype), state, shapes[1])


@pytest.mark.parametrize(
    ("blocks", "widths", "layers"),
    [
        ((1, 1, 1, 1), (16, 16, 16, 16), 35),
        pytest.param((3, 4, 6, 3), (256, 512, 1024, 2048), 107, marks=pytest.mark.slow),  # a ResNet-50
    ],
)
def test_haiku_resnets(hk, blocks, widths, layers, tmp_path):
    image, layer = image_of(64, 64), "resnet/~/block_group_3"
    transformed, params, state = haiku_resnet(hk, blocks, widths, image)
    model = tap_haiku(transformed, params, state, layer, image, head="resnet/~/logits", is_training=False)
    compare(model, image, *haiku_by_hand(hk, transformed, params, state, layer, image, is_training=False))
    assert model.head_is_last
    assert len(parameter_layers(model).names) == layers
    inner = f"{layer}/~/block_0/~/conv_1"
    model = tap_haiku(transformed, params, state, inner, image, is_training=False)
    compare(model, image, *haiku_by_hand(hk, transformed, params, state, inner, image, is_training=False))
    if layers > 100:
        evaluated(model, tmp_path)


@pytest.fixture(scope="module")
def haiku_net(hk):
    """A network without a state, its axes in PyTorch's order, random numbers drawn where it is told to."""

    def forward(x, noisy=False):
        x = jax.nn.relu(hk.Conv2D(4, 3, data_format="NCHW", name="conv")(x))
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if noisy else x
        return hk.Linear(CLASSES, name="out")(jnp.tanh(hk.Linear(5, name="hidden")(x.mean((2, 3)))))

    transformed = hk.transform(forward)
    return transformed, transformed.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8)))


def test_haiku_functions_without_a_state(hk, haiku_net):
    (transformed, params), image = haiku_net, image_of(8, 8)
    model = tap_haiku(transformed, params, None, "conv", image, head="hidden", channels="first")
    assert not model.head_is_last
    assert model.activation_shape == (8, 8, 4)
    quiet = hk.without_apply_rng(transformed)
    other = tap_haiku(quiet, params, None, "conv", image, channels="first", after="relu")
    logits = quiet.apply(params, jnp.moveaxis(image, -1, 0)[None])[0]
    for found in (model, other):
        np.testing.assert_allclose(found.view(found.params, image).logits, logits, atol=1e-6)


def test_evaluation_of_a_haiku_function(hk, tmp_path):
    def forward(x, is_training):
        x = hk.BatchNorm(True, True, 0.9, name="norm")(hk.Conv2D(4, 3, name="conv")(x), is_training)
        return hk.Linear(CLASSES, name="out")(jax.nn.relu(x).mean((1, 2)))

    transformed, image = hk.transform_with_state(forward), image_of(16, 16)
    params, state = transformed.init(jax.random.key(0), image[None], True)
    model = tap_haiku(transformed, params, state, "norm", image, head="out", is_training=False)
    assert parameter_layers(model).names == ("out", "norm", "conv")  # the averages are the normalisation's
    evaluated(model, tmp_path)


def test_haiku_heads_see_positions_first(hk):
    def forward(x):
        x = jax.nn.relu(hk.Conv2D(4, 3, data_format="NCHW", name="conv")(x))
        return hk.Linear(3, name="out")(jnp.tanh(hk.Linear(5, name="hidden")(hk.Flatten()(x))))

    transformed, image = hk.transform(forward), image_of(6, 6)
    params = transformed.init(jax.random.key(0), jnp.zeros((1, 3, 6, 6)))
    for check in (True, False):  # its closed form is checked, and is right where it is not
        model = tap_haiku(transformed, params, None, "conv", image, head="hidden", channels="first", check=check)
        assert not model.head_is_last
        check_closed_form(model, image)


def test_haiku_layers_together(hk):
    def forward(x):
        for i in range(3):
            x = jnp.tanh(hk.Conv2D(4, 3, stride=1 + i % 2, data_format="NCHW", name=f"conv{i}")(x))
        return hk.Linear(CLASSES, name="out")(x.mean((2, 3)))

    transformed, image = hk.transform(forward), image_of(8, 8)
    params = transformed.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8)))
    several(
        partial(tap_haiku, transformed, params, None, image=image, channels="first"), ("conv0", "conv1", "conv2"), image
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "con"}, "layer: 'con' is unknown. Did you mean 'conv'"),
        ({"head": "conv"}, "head: got 'conv', a Conv2D; accepted: an hk.Linear"),
        ({"state": {"a": {}}}, "state: got a dict; accepted: None or {}"),
        ({"rng": jax.random.key(0), "noisy": True}, "the logits change with the state of a random generator, first in"),
        ({"nosy": True}, "unexpected keyword argument 'nosy'.*call_args"),
    ],
)
def test_haiku_arguments_that_cannot_be(haiku_net, given, message):
    transformed, params = haiku_net
    given = {"state": None, "layer": "conv", "image": image_of(8, 8), "channels": "first"} | given
    with pytest.raises(CaseJaxError, match=message):
        tap_haiku(transformed, params, **given)
