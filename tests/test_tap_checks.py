"""A tapped function is the model in evaluation: what is refused at tap time, what is not, and how each is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, tap_linen, tap_nnx

IMAGE = jax.random.normal(jax.random.key(0), (6, 8, 3))


class Net(nnx.Module):
    """Convolution, `between`, relu, mean, linear: subclasses put something in between."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.own = Standardise()
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def rest(self, a):
        return self.head(nnx.relu(a).mean((1, 2)))

    def __call__(self, x):
        return self.rest(self.conv(x))


class Standardise(nnx.Module):
    def __call__(self, x):
        return (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))


class Normalised(Net):
    def __call__(self, x, train=True):
        return self.rest(self.bn(self.conv(x), use_running_average=not train))


class Dropped(Net):
    def __call__(self, x, train=True):
        return self.rest(self.drop(self.conv(x), deterministic=not train))


class Flagged(Net):
    def __init__(self):
        super().__init__()
        self.training = True

    def __call__(self, x):
        return self.rest(self.drop(self.conv(x), deterministic=not self.training))


class Needing(Net):
    def __call__(self, x, *, rngs, deterministic):
        return self.rest(self.drop(self.conv(x), deterministic=deterministic, rngs=rngs))


class Mixed(Net):
    def __call__(self, x):
        return self.rest(self.own(self.conv(x)))


class Positional(Net):
    def __call__(self, x, train, /):
        return self.rest(self.bn(self.conv(x), use_running_average=not train))


class OwnStatistic(Net):
    """A running mean that is no nnx.BatchStat."""

    def __init__(self):
        super().__init__()
        self.seen = nnx.Variable(jnp.zeros(4))

    def __call__(self, x, augment_statistics=True):
        a = self.conv(x)
        if augment_statistics:
            self.seen[...] = 0.9 * self.seen[...] + 0.1 * a.mean((0, 1, 2))
        return self.rest(a - self.seen[...])


class Untrained(Dropped):
    """Its head is zero, so that its logits do not change yet."""

    def __init__(self):
        super().__init__()
        self.head.kernel[...] = jnp.zeros((4, 5))


class Harmless(Net):
    """Counts its calls, draws a number that it does not use, and gates another by a variable that is off."""

    def __init__(self):
        super().__init__()
        self.count, self.noisy = nnx.Variable(jnp.zeros(())), nnx.Variable(jnp.zeros((), bool))
        self.rngs = nnx.Rngs(1)

    def __call__(self, x):
        self.count[...] += 1
        noise = jax.random.normal(self.rngs.default(), (4,))
        return self.rest(self.conv(x) + jnp.where(self.noisy[...], noise, 0))


REFUSED = [
    (Normalised, {}, r"writes 'mean', a batch statistic, in 'bn' \(BatchNorm\).*tap_nnx\(…, train=False\).* True now"),
    (Dropped, {}, r"random generator, first in 'drop' \(Dropout\).*train=False"),
    (Flagged, {}, r"random generator, first in 'drop' \(Dropout\).*training = False, which Flagged keeps as True"),
    (Needing, {}, r"^rngs: Needing.__call__\(x, rngs, deterministic\) needs it.*rngs=nnx.Rngs\(0\)"),
    (Needing, {"rngs": nnx.Rngs(0)}, r"^deterministic: .* tap_nnx\(…, deterministic=True\)"),
    (Needing, {"rngs": nnx.Rngs(0), "deterministic": False}, r"random generator, first in 'drop'.*deterministic=True"),
    (Needing, {"rng": nnx.Rngs(0), "deterministic": True}, r"^argument of Needing.__call__: 'rng' is unknown.*'rngs'"),
    (Mixed, {}, r"rest of its batch, first in 'own' \(Standardise\)"),
    (Positional, {}, r"^train: .* tap_nnx\(…, call_args=\(False,\)\)"),
    (Positional, {"call_args": (True,)}, r"writes 'mean'.*train=False"),
    (OwnStatistic, {}, r"writes 'seen', a batch statistic.*augment_statistics=False"),
    (Untrained, {}, r"random generator, first in 'drop'"),
]


@pytest.mark.parametrize(("net", "options", "words"), REFUSED, ids=lambda v: getattr(v, "__name__", None))
def test_a_network_that_is_not_in_evaluation_is_refused(net, options, words):
    with pytest.raises(CaseJaxError, match=words):
        tap_nnx(net(), "conv", IMAGE, **options)


def evaluated(net, **options):
    model = tap_nnx(net, "conv", IMAGE, **options)
    return model.apply(model.params, IMAGE)


def test_arguments_of_the_call_reach_the_module():
    plain, net = Net(), Normalised()
    net.bn.mean[...] = jnp.arange(4.0)
    expected = net(IMAGE[None], train=False)[0]
    for given, options in (
        (net, {"train": False}),
        (net, {"call_args": (False,)}),
        (functools.partial(net, train=False), {}),
        (functools.partial(net, train=True), {"train": False}),
        (nnx.jit(net), {"train": False}),
        (net.__call__, {"train": False}),
    ):
        np.testing.assert_allclose(evaluated(given, **options), expected, rtol=1e-5)
    rngs = nnx.Rngs(0)
    before = rngs.default.count[...]
    np.testing.assert_allclose(
        evaluated(Needing(), rngs=rngs, deterministic=True), plain(IMAGE[None])[0], rtol=1e-5, atol=1e-6
    )
    assert rngs.default.count[...] == before  # the caller's generator is untouched
    assert evaluated(Harmless()).shape == (5,)


def test_without_checks_nothing_is_asked():
    net = Mixed()
    np.testing.assert_allclose(evaluated(net, check=False), net(IMAGE[None])[0], rtol=1e-4, atol=1e-5)


def test_one_random_state_changes_what_another_leaves():
    """The refusals are about a difference: the same networks without it pass, above; here it is as large as the logits."""
    net = Dropped()
    logits = [np.asarray(net(IMAGE[None])[0]) for _ in range(2)]
    assert np.abs(logits[0] - logits[1]).max() > 0.05 * np.abs(logits[0]).max()


class LinenNet(linen.Module):
    live: bool = False

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x))
        x = linen.Dropout(0.5, deterministic=not (train or self.live))(x)
        return linen.Dense(5)(linen.relu(x).mean((1, 2)))


VARIABLES = LinenNet().init(jax.random.key(0), IMAGE[None], train=False)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (LinenNet(), {}, r"'BatchNorm_0' \(BatchNorm\) writes batch_stats.*tap_linen\(…, train=False\)"),
        (LinenNet(), {"mutable": ["batch_stats"]}, r"'Dropout_0' \(Dropout\) draws random numbers.*train=False"),
        (
            LinenNet(),
            {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}},
            r"writes 'mean', a batch statistic, in 'BatchNorm_0'.*train=False",
        ),
        (
            LinenNet(live=True),
            {"train": False, "rngs": {"dropout": jax.random.PRNGKey(0)}},
            r"random generator, first in 'Dropout_0'",
        ),
        (LinenNet(), {"training": False}, r"^argument of LinenNet.__call__: 'training' is unknown.*'train'"),
        (type("Model", (), {"module": LinenNet(), "params": {}})(), {}, r"Model, which holds .*tap_linen\(model.module, "),
        (type("Model", (), {"module": Net()})(), {}, r"tap_nnx\(model.module, "),
        (lambda x: x, {}, r"^module: got a function; accepted: a flax.linen.Module"),
    ],
)  # fmt: skip
def test_the_same_of_linen(module, options, words):
    with pytest.raises(CaseJaxError, match=words):
        tap_linen(module, VARIABLES, "Conv_0", IMAGE, **options)


def test_arguments_of_the_call_reach_a_linen_module():
    module = LinenNet()
    expected = module.apply(VARIABLES, IMAGE[None], train=False)[0]
    for given, options in (
        (module, {"train": False}),
        (module, {"call_args": (False,)}),
        (functools.partial(module, train=False), {}),
        (functools.partial(module.apply, train=False), {}),
        (module, {"train": False, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}),
    ):
        model = tap_linen(given, VARIABLES, "Conv_0", IMAGE, **options)
        np.testing.assert_allclose(model.apply(model.params, IMAGE), expected, rtol=1e-5, atol=1e-6)


def test_an_image_of_another_size_is_named():
    class Flat(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 2, (3, 3), rngs=nnx.Rngs(0))
            self.head = nnx.Linear(96, 5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.head(self.conv(x).reshape(len(x), -1))

    model = tap_nnx(Flat(), "conv", IMAGE)
    with pytest.raises(CaseJaxError, match=r"^image: got shape \(8, 8, 3\), .*accepted: \(6, 8, 3\)"):
        model.view(model.params, jnp.zeros((8, 8, 3)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("tap", ["nnx", "linen"])
def test_the_closed_form_reads_the_kernel_as_the_head_rounds_it(tap, dtype):
    """Class weights behind a mean are `round(kernel) / (h w)`: exactly, not those of the float32 kernel."""

    class Low(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
            self.head = nnx.Linear(4, 5, dtype=dtype, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.head(self.conv(x).mean((1, 2)))

    class LowLinen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(5, dtype=dtype, name="head")(linen.Conv(4, (3, 3), name="conv")(x).mean((1, 2)))

    with jax.numpy_dtype_promotion("standard"):
        if tap == "nnx":
            net = Low()
            model, kernel = tap_nnx(net, "conv", IMAGE, linear_head="head"), net.head.kernel[...]
        else:
            variables = LowLinen().init(jax.random.key(0), IMAGE[None])
            model = tap_linen(LowLinen(), variables, "conv", IMAGE, linear_head="head")
            kernel = variables["params"]["head"]["kernel"]
        found = model.view(model.params, IMAGE).class_weights(jnp.arange(5))
    rounded = np.asarray(kernel.astype(dtype).astype(jnp.float32)).T / 48
    np.testing.assert_allclose(found, rounded, rtol=1e-6)
    assert np.abs(rounded - np.asarray(kernel).T / 48).max() > 1e-6
