"""What the outputs of a program need of its inputs, against the places where its derivative is not zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from case_jax.tap.needed import needed, whole
from case_jax.tap.split import tag

X = jax.random.normal(jax.random.key(0), (3, 6, 4))
W = jax.random.normal(jax.random.key(1), (4, 4))


def windows(x):
    return x.reshape(3, 2, 3, 4).reshape(6, 3, 4).sum(1).reshape(3, 2, 4)


def attention(x):
    scores = jax.nn.softmax(jnp.einsum("nqk,npk->nqp", x @ W, x))
    return jnp.einsum("nqp,npk->nqk", scores, x)


def looped(x):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w), c[:, 0]), x, jnp.stack([W, W]))


def convolved(x):
    return lax.conv_general_dilated(x, jnp.ones((3, 4, 4)), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


FIRST = (0, 1)
CASES = {
    "class token": (lambda x: (x * 2)[:, 0], (FIRST, FIRST, (0, 4))),
    "the last token": (lambda x: x[:, -1], (FIRST, (5, 6), (0, 4))),
    "taken": (lambda x: jnp.take(x, 2, axis=1), (FIRST, (2, 3), (0, 4))),
    "taken, two": (lambda x: x[:, jnp.array([1, 3])], (FIRST, (1, 4), (0, 4))),
    "dynamic slice": (lambda x: lax.dynamic_slice_in_dim(x, 1, 2, 1), (FIRST, (1, 3), (0, 4))),
    "unknown index": (lambda x: lax.dynamic_index_in_dim(x, jnp.int32(x[0, 0, 0] > 9), 1), None),
    "strided": (lambda x: x[:, 1::2], (FIRST, (1, 6), (0, 4))),
    "concatenated": (lambda x: jnp.concatenate([x[:, :2], 2 * x[:, 4:]], 1)[:, 2:], (FIRST, (4, 6), (0, 4))),
    "padded": (lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :3], (FIRST, FIRST, (0, 4))),
    "padding alone": (lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :2], ()),
    "split": (lambda x: jnp.split(x, 3, 1)[1], (FIRST, (2, 4), (0, 4))),
    "transposed": (lambda x: x.transpose(0, 2, 1)[:, :, 3], (FIRST, (3, 4), (0, 4))),
    "rolled": (lambda x: jnp.roll(x, 2, 1)[:, :2], (FIRST, (4, 6), (0, 4))),
    "flattened": (lambda x: x.reshape(3, -1)[:, :4], (FIRST, FIRST, (0, 4))),
    "windows in the batch": (windows, (FIRST, (0, 6), (0, 4))),
    "product": (lambda x: (x @ W)[:, 1], (FIRST, (1, 2), (0, 4))),
    "attention": (lambda x: attention(x)[:, 0], (FIRST, (0, 6), (0, 4))),
    "normalised": (lambda x: jax.nn.standardize(x)[:, 2], (FIRST, (2, 3), (0, 4))),
    "cumulative": (lambda x: jnp.cumsum(x, 1)[:, 0], None),
    "sorted": (lambda x: jnp.sort(x, 1), (FIRST, (0, 6), (0, 4))),
    "convolution": (convolved, (FIRST, (0, 6), (0, 4))),
    "pool": (pooled, (FIRST, (0, 6), (0, 4))),
    "loop": (lambda x: looped(x)[0][:, 1], (FIRST, (1, 2), (0, 4))),
    "loop, second output": (lambda x: looped(x)[1].swapaxes(0, 1), None),
    "call": (lambda x: jax.jit(jax.checkpoint(lambda x: jax.nn.relu(x)[:, 1]))(x), (FIRST, (1, 2), (0, 4))),
    "branch": (lambda x: lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.tanh, x), (FIRST, (0, 6), (0, 4))),
    "batch statistics": (lambda x: x - x.mean(0), ((0, 3), (0, 6), (0, 4))),
    "nothing": (lambda x: jnp.zeros((3, 2)), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_first_row_needs(name):
    """Never less than where the derivative is not zero; and exactly so much where the case says it."""
    function, expected = CASES[name]
    program = jax.make_jaxpr(function)(X)
    box = whole(program.out_avals[0].shape)
    found = needed(program, [(FIRST, *box[1:])])[0][0]
    matrix = np.asarray(jax.jit(jax.jacrev(lambda x: function(x)[0]))(X)).reshape(-1, *X.shape)
    used = np.argwhere((matrix != 0).any(0))
    if len(used):
        assert found is not None
        for axis, (start, stop) in enumerate(found):
            assert start <= used[:, axis].min()
            assert used[:, axis].max() < stop
    if expected is not None:
        assert found == (expected or None)


def test_tagged_values_are_met_in_order():
    def function(x):
        a = tag(x * 2, "a")
        tag(a + 1, "unused")
        return jax.jit(lambda a: tag(jnp.tanh(a), "b")[:, 1])(a)

    program = jax.make_jaxpr(function)(X)
    _, met = needed(program, [(FIRST, (0, 4))])
    assert [(m.name, m.box) for m in met] == [
        ("a", (FIRST, (1, 2), (0, 4))),
        ("unused", None),
        ("b", (FIRST, (1, 2), (0, 4))),
    ]
