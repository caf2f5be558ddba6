"""Signals and volumes: a line in space is a signal, a volume may be turned; gradients by hand; and what is for pictures alone."""

from functools import partial
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import cam_and_case
from flax import linen, nnx

from case_jax import METHODS, CaseJaxError, agreement, ask, explain, finish_maps, show, tag, tap_function, topk_logits
from case_jax import evaluate as evaluate_call
from case_jax.imageops import blur, is_degenerate, resize_map
from case_jax.methods import all_class_maps, extremal_perturbation
from case_jax.methods.rise import random_mask
from case_jax.metrics import METRICS, MetricInputs, impute
from case_jax.metrics.fidelity import removal_mask
from case_jax.metrics.grid_pointing import cell_shares
from case_jax.metrics.hog import hog
from case_jax.metrics.localisation import box_of_map
from case_jax.metrics.saliency_metric import saliency_metric
from case_jax.metrics.ssim import ssim
from case_jax.tap import tap_linen, tap_nnx

CLASSES = 5
CONTRAST = topk_logits(2, CLASSES)
TARGETS = jnp.asarray([3, 0])
RNG = np.random.default_rng(0)
HEAD = jnp.asarray(RNG.normal(size=(4, CLASSES)), jnp.float32)
SIDE = 21
LINE = jnp.asarray(RNG.normal(size=(SIDE, 3)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(0, 0.5, (3, 3, 4)), jnp.float32)
VOLUME = jnp.zeros((12, 12, 12))
BUDGETS = {"steps": 4, "samples": 3}
OPTIONS = {name: {"percents": (5.0, 10.0, 20.0)} for name in ("specificity", "specificity_insertion")}
PICTURES_ONLY = {"similarity": "SSIM", "random_logit": "SSIM", "road": "ROAD", "arcc": "ROAD"}
ASKED_AGAIN = ("masked_accuracy",)  # of the method itself, which no map is


def network(params, x):
    """Convolution, ReLU, spatial mean, five classes, for any number of spatial axes."""
    axes = "DHW"[-(x.ndim - 1) :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    kernel, head = params
    a = jax.lax.conv_general_dilated(x[None], kernel, (2,) * len(axes), "SAME", dimension_numbers=numbers)[0]
    return tag(jax.nn.relu(a), "a").mean(tuple(range(len(axes)))) @ head


def model_of(image, kernel):
    return tap_function(network, (kernel, HEAD), "a", image, layers=["a"])


def maps_of(name, model, image, kernel):
    """Raw and finished maps of two classes."""
    maps = METHODS[name].maps
    maps = partial(maps, **{k: v for k, v in BUDGETS.items() if k in signature(maps).parameters})
    view = model.view((kernel, HEAD), image)
    raw = maps(view, ask(view, TARGETS, CONTRAST, key=jax.random.key(0)))
    return raw, finish_maps(raw, image.shape[:-1], space=image.ndim - 1)


@pytest.mark.parametrize(
    "name", [n for n, entry in METHODS.items() if n not in ("rise", "extremal_perturbation") and not entry.attention]
)
def test_a_line_in_a_volume_has_the_maps_of_a_signal(name):
    """RISE draws another grid for another number of axes, extremal perturbation is for pictures."""
    signals, volumes = model_of(LINE, KERNEL), model_of(in_space(LINE), in_space(KERNEL))

    @jax.jit
    def run(line, kernel):
        return maps_of(name, signals, line, kernel), maps_of(name, volumes, in_space(line), in_space(kernel))

    thin, thick = run(LINE, KERNEL)
    for signal, volume in zip(thin, thick, strict=True):
        np.testing.assert_allclose(volume[:, 0, :, 0], signal, atol=2e-5)
    assert float(jnp.ptp(thin[1])) > 0.5


def in_space(line):
    """The first axis as the second of three."""
    return line[None, :, None]


def scored_of(model, image, kernel, maps, regions):
    view = model.view((kernel, HEAD), image)
    targets = jnp.asarray([3, 0, 1])
    black, key = jnp.asarray([-2.0, -1.0, -0.5]), jax.random.key(1)
    chosen = jax.nn.softmax(view.logits)[targets]
    of = jnp.asarray([3, 0, -1])
    return MetricInputs(maps, is_degenerate(maps, space=image.ndim - 1), view, targets, chosen, regions, of, black, key)


def test_a_line_in_a_volume_has_the_scores_of_a_signal():
    maps, regions = jnp.asarray(RNG.random((3, SIDE)), jnp.float32), jnp.asarray(RNG.random((3, SIDE)) > 0.6)
    signals, volumes = model_of(LINE, KERNEL), model_of(in_space(LINE), in_space(KERNEL))

    @jax.jit
    def run(line, kernel):
        thin = scored_of(signals, line, kernel, maps, regions)
        thick = scored_of(volumes, in_space(line), in_space(kernel), maps[:, None, :, None], regions[:, None, :, None])
        names = [n for n in METRICS if n not in (*PICTURES_ONLY, *ASKED_AGAIN)]
        return {n: [METRICS[n].columns(one, **OPTIONS.get(n, {})) for one in (thin, thick)] for n in names}

    found = run(LINE, KERNEL)
    masking = ("masked_confidence", "faithfulness", "relative_drop", "mask_complexity")
    assert set(found) == {"sensitivity", "fidelity", "evidence", "deletion_insertion", "soundness", *masking, *OPTIONS}
    for thin, thick in found.values():
        assert thin.keys() == thick.keys()
        for column, value in thin.items():
            assert np.isfinite(value)
            np.testing.assert_allclose(thick[column], value, atol=1e-6, err_msg=column)


@pytest.mark.parametrize("name", ["eigen_cam", "score_cam", "occlusion", "sobel", "meaningful_perturbation"])
def test_maps_turn_with_a_volume(name):
    """Depth, height and width are alike, and of different lengths here."""
    rng, turn = np.random.default_rng(2), (2, 0, 1, 3)
    image = jnp.asarray(rng.normal(size=(7, 12, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(0, 0.5, (3, 2, 3, 3, 4)), jnp.float32)
    turned, own = image.transpose(turn), kernel.transpose((*turn, 4))
    upright, lying = model_of(image, kernel), model_of(turned, own)
    raw, other = jax.jit(lambda *a: (maps_of(name, upright, *a[:2])[1], maps_of(name, lying, *a[2:])[1]))(
        image, kernel, turned, own
    )
    atol = 1e-3 if METHODS[name].slow else 2e-5  # Adam divides small gradients by their own size
    np.testing.assert_allclose(other, raw.transpose(0, 3, 1, 2), atol=atol)
    assert float(jnp.ptp(raw)) > 0.5


class Volumes(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 3, (3, 3, 3), strides=2, rngs=rngs)
        self.conv = nnx.Conv(3, 4, (3, 3, 3), rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(nnx.relu(self.first(x)))).mean((1, 2, 3)))


class Signals(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(3, (5,), strides=2, name="first")(x))
        x = linen.relu(linen.Conv(4, (3,), name="conv")(x))
        return linen.Dense(CLASSES, name="head")(x.mean(1))


def volumes():
    image = jnp.asarray(RNG.normal(size=(8, 16, 12, 1)), jnp.float32)
    net = Volumes(nnx.Rngs(0))

    def tail(a):
        return net.head(nnx.relu(a).mean((1, 2, 3)))[0]

    return (lambda **head: tap_nnx(net, "conv", image, **head)), image, net.conv(nnx.relu(net.first(image[None]))), tail


def signals():
    image = jnp.asarray(RNG.normal(size=(64, 2)), jnp.float32)
    net = Signals()
    variables = net.init(jax.random.key(0), image[None])
    a = net.apply(variables, image[None], capture_intermediates=True)[1]["intermediates"]["conv"]["__call__"][0]
    head = variables["params"]["head"]

    def tail(a):
        return (jax.nn.relu(a).mean(1) @ head["kernel"] + head["bias"])[0]

    return (lambda **head: tap_linen(net, variables, "conv", image, **head)), image, a, tail


@pytest.mark.parametrize("case", [volumes, signals])
def test_maps_of_every_class_against_gradients_written_by_hand(case):
    tap, image, a, tail = case()
    space, activation = image.shape[:-1], np.asarray(a[0])
    gradients, logits = jax.jit(lambda a: (jax.jacobian(tail)(a)[:, 0], tail(a)))(a)
    expected = list(cam_and_case(activation, gradients, logits, rivals=2).values())

    def maps(model, image):
        return [
            all_class_maps(METHODS[n].maps, model, model.params, image, contrast=CONTRAST) for n in ("grad_cam", "case")
        ]

    for model in (tap(), tap(linear_head="head")):
        assert model.activation_shape == activation.shape
        for found, by_hand in zip(jax.jit(maps)(model, image), expected, strict=True):
            np.testing.assert_allclose(found, by_hand, atol=1e-5)
    both = explain(model, jnp.stack([image, 0.5 * image]), "case", targets=[1, 2], contrast=CONTRAST)
    one = explain(model, image, "case", targets=2, contrast=CONTRAST)
    assert (both.shape, one.shape) == ((2, 2, *space), space)
    shifted = expected[1][2] - expected[1][2].min()
    finished = jax.image.resize(shifted / (1e-7 + shifted.max()), space, "linear", antialias=False)
    np.testing.assert_allclose(one, finished, atol=1e-4)
    np.testing.assert_allclose(both[0, 1], finished, atol=1e-4)


@pytest.mark.parametrize(("source", "target"), [((5,), (21,)), ((3, 4, 5), (9, 4, 17)), ((2, 3, 2, 3), (4, 3, 5, 6))])
def test_enlarging_is_linear_along_each_axis(source, target):
    maps = jnp.asarray(RNG.normal(size=(2, *source)), jnp.float32)
    expected = jax.image.resize(maps, (2, *target), "linear", antialias=False)
    np.testing.assert_allclose(resize_map(maps, target), expected, atol=1e-6)


def test_blur_reaches_as_far_as_its_own_axis_lets_it():
    """One row was blurred over three pixels, whatever σ."""
    line = RNG.normal(size=(40, 1)).astype(np.float32)
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 4) ** 2)
    expected = np.convolve(np.pad(line[:, 0], 12, mode="reflect"), kernel / kernel.sum(), "valid")
    for found in jax.jit(lambda x: (blur(x, 4.0), blur(x[None], 4.0), blur(in_space(x), 4.0)))(jnp.asarray(line)):
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(40,), (6, 10, 14)])
def test_rise_masks_keep_every_voxel_alike_and_find_what_is_seen(shape):
    draw = jax.jit(jax.vmap(lambda key: random_mask(key, shape, cells=4, keep=0.3, dtype=jnp.float32)))
    masks = draw(jax.random.split(jax.random.key(0), 1000))
    assert masks.shape == (1000, *shape)
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=0.1)  # seven standard errors
    seen = tuple(slice(side // 2, None) for side in shape)

    def half(params, x):
        mean = tag(x, "a")[seen].mean()
        return jnp.stack([params * (mean - 0.5), 0 * mean])

    model = tap_function(half, jnp.asarray(20.0), "a", jnp.ones((*shape, 1)))
    found = explain(model, jnp.ones((*shape, 1)), "rise", targets=0, masks=200, cells=4)
    assert found.shape == shape
    assert float(found[seen].mean()) > 2 * float((found.sum() - found[seen].sum()) / (found.size - found[seen].size))


SIGNALS = model_of(LINE, KERNEL)
ONLY = r"accepted: pictures, \(height, width\), for which alone it is defined"


def of_signals(name):
    scored = scored_of(SIGNALS, LINE, KERNEL, jnp.ones((3, SIDE)), jnp.zeros((0, SIDE), bool))
    return METRICS[name].columns(scored._replace(explain=lambda x: x[..., 0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (partial(of_signals, name), f"^{what}.*: got 1 spatial axis; {ONLY}")
            for name, what in PICTURES_ONLY.items()
        ),
        (lambda: ssim(VOLUME, VOLUME), f"^SSIM: got 3 spatial axes; {ONLY}"),
        (lambda: hog(LINE[:, 0]), f"^a histogram of oriented gradients: got 1 spatial axis; {ONLY}"),
        (lambda: impute(VOLUME[..., None], VOLUME > 0), f"^ROAD's imputation of pixels: got 3 spatial axes; {ONLY}"),
        (
            lambda: saliency_metric(jnp.sum, LINE, jnp.zeros(4, int), jnp.asarray(0)),
            f"^the saliency metric's box.*{ONLY}",
        ),
        (lambda: box_of_map(np.zeros((4, 4, 4))), r"^saliency: .*\(4, 4, 4\).*\(height, width\)"),
        (lambda: cell_shares(VOLUME, 2), r"^saliency: .*one map of at least 2×2 pixels"),
        (lambda: removal_mask(LINE[:, 0], 3, region="reference-transposed"), "^region: .*a square map"),
        (lambda: explain(SIGNALS, LINE, extremal_perturbation), f"^extremal perturbation: got 1 spatial axis; {ONLY}"),
        (lambda: explain(SIGNALS, LINE, "occlusion", window=(3, 3)), "^window: .*one for each of the image's 1 axes"),
        (
            lambda: show(LINE, LINE[:, 0]),
            "^image: .*signals and volumes are not drawn: explain returns their maps as arrays",
        ),
        (lambda: evaluate_call("folder:none", SIGNALS), f"^evaluate's run.*: got 1 spatial axis; {ONLY}"),
        (lambda: agreement(VOLUME, VOLUME), "^first, second: .*space=1 for signals, space=3 for volumes"),
        (lambda: finish_maps(VOLUME, (12, 12, 12)), "^shape: .*for signals space=1 and for volumes space=3"),
        (lambda: finish_maps(VOLUME, (12, 12), space=3), "^shape: .*3 sizes, for space=3"),
        (lambda: explain(SIGNALS, LINE[0]), r"^image: got shape \(3,\)"),
        (
            lambda: tap_function(lambda p, x: tag(x.mean(0), "a").mean(0), (), "a", jnp.ones((8, 9, 3))),
            r"^layer: .*the image's spatial axes",
        ),
    ],
)
def test_what_is_for_pictures_alone_says_so(call, message):
    with pytest.raises(CaseJaxError, match=message):
        call()


class Pictures(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.conv(x).mean((1, 2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32), r"image: got shape \(32, 32\).*one of channels also where there is one: image\[..., None\]"),
        ((2, 32, 32, 3), "for one image.*without a batch axis"),
        ((3, 32, 32), r"accepted: .*\(32, 32, 3\), channels last"),
    ],
)
def test_a_network_of_pictures_refuses_other_axes(shape, message):
    with pytest.raises(CaseJaxError, match=message):
        tap_nnx(Pictures(), "conv", jnp.ones(shape))


def test_volumes_agree_over_all_their_voxels():
    a, b = jnp.asarray(RNG.random((2, 4, 5, 10)), jnp.float32)
    top = [set(np.argsort(-m.ravel(), kind="stable")[:20].tolist()) for m in (a, b)]
    assert float(jax.jit(partial(agreement, percent=10, space=3))(a, b).F) == pytest.approx(len(top[0] & top[1]) / 20)


class Tokens(nnx.Module):
    """Patches of any number of spatial axes, of any sides, as tokens behind a class token; no logit sees what `unused` gives."""

    def __init__(self, *sides):
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(2, 4, sides, strides=sides, use_bias=False, rngs=rngs)
        self.embed, self.unused = nnx.Linear(4, 5, use_bias=False, rngs=rngs), nnx.Conv(5, 5, (1,), rngs=rngs)

    def __call__(self, x):
        tokens = self.patches(x)
        tokens = tokens.reshape(len(x), -1, tokens.shape[-1])
        tokens = self.embed(jnp.concatenate([jnp.ones((len(x), 1, 4)), tokens], axis=1))
        self.unused(tokens[:, ::2])
        return jax.nn.relu(tokens).mean(1)


@pytest.mark.parametrize(
    ("sides", "shape", "grid", "place"),
    [((4,), (20,), (5,), (3,)), ((1, 4, 2), (3, 8, 8), (3, 2, 4), (1, 0, 2))],
)
def test_tokens_lie_where_their_patch_is_and_the_grid_has_the_image_s_axes(sides, shape, grid, place):
    patch = tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, sides, strict=True))
    image, net, count = jnp.zeros((*shape, 2)).at[patch].set(1.0), Tokens(*sides), int(np.prod(grid))
    model = tap_nnx(net, "embed", image, token_grid=grid, prefix_tokens=1)
    activation = jnp.abs(model.view(model.params, image).activation).sum(-1)
    assert np.unravel_index(int(activation.argmax()), grid) == place
    with pytest.raises(
        CaseJaxError, match=rf"^token_grid: got {count}×1×1×1 .* and an image of {'×'.join(map(str, shape))}"
    ):
        tap_nnx(net, "embed", image, token_grid=(count, 1, 1, 1), prefix_tokens=1)
    with pytest.raises(CaseJaxError, match=rf"^token_grid: .* of {count + 1} tokens; accepted"):
        tap_nnx(net, "embed", image, token_grid=grid)


def test_a_layer_of_signals_that_reaches_no_logit_is_refused_with_one_of_another_length():
    with pytest.raises(CaseJaxError, match=r"^layer: the logits do not depend on 'unused'.*is 'embed'"):
        tap_nnx(Tokens(4), "unused", jnp.ones((20, 2)))


def test_signed_maps_of_a_line_in_a_volume():
    signals, volumes = model_of(LINE, KERNEL), model_of(in_space(LINE), in_space(KERNEL))
    thin = explain(signals, LINE, "hires_cam", targets=TARGETS, signed=True)
    thick = explain(volumes, in_space(LINE), "hires_cam", targets=TARGETS, signed=True)
    np.testing.assert_allclose(thick[:, 0, :, 0], thin, atol=2e-5)
    np.testing.assert_allclose(jnp.abs(thin).max(-1), 1, atol=0.2)
    assert float(thin.min()) < -0.1 < 0.1 < float(thin.max())
