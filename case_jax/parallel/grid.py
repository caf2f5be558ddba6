"""Devices as a table: rows of devices that share a tile, and split its classes among them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from case_jax import parallel
from case_jax._checks import require


class Share(NamedTuple):
    """One device's share of an axis that a group of devices splits."""

    index: Any
    """Which share, from 0."""
    of: int
    """How many shares there are."""
    gather: Callable[[jax.Array, int], jax.Array]
    """`gather(array, axis)`: the arrays of all devices of the group, joined along that axis."""


ALONE = Share(0, 1, lambda array, axis: array)
"""All of an axis that is not split."""

Step = Callable[..., tuple[Any, Any]]
"""`(state, params, batch, *, share)` of one device to its next state and a result."""


class Grid:
    """The local devices as a table: the devices of a row work on one tile and split the classes among them.

    With one column a step runs under `jax.pmap` (see `mapped_by`), with more under `jax.shard_map`; it must be local but for `Share.gather`.
    """

    def __init__(self, columns: int = 1):
        """Arrange the devices.

        Raises:
            CaseJaxError: for a number of columns that does not divide that of the devices.
        """
        devices = jax.local_devices()
        proper = columns >= 1 and len(devices) % columns == 0
        require(proper, "class_shards", columns, f"a number that divides that of the local devices, {len(devices)}")
        self.rows, self.columns = len(devices) // columns, columns
        # not jax.make_mesh: convolutions under vmap refuse its explicit axes
        table, axes = np.array(devices).reshape(self.rows, columns), ("data", "class")
        mesh = Mesh(devices, axes[:1]) if columns == 1 else Mesh(table, axes)  # as pmap's own, or it compiles twice
        self._by_device = NamedSharding(mesh, PartitionSpec("data" if columns == 1 else axes))
        self._by_row = NamedSharding(mesh, PartitionSpec("data"))

    def step(self, function: Step) -> Callable[..., tuple[Any, Any]]:
        """Compile a step, to be called with what `zeros`, `replicate` and `shard` return; the state that it is given is used up."""
        function = parallel.with_precision(function)
        if self.columns == 1:
            return parallel.mapped(partial(function, share=ALONE), self._by_device, donate=True)

        def gather(array: jax.Array, axis: int) -> jax.Array:
            return jax.lax.all_gather(array, "class", axis=axis, tiled=True)

        def one_of_group(*arguments: Any) -> tuple[Any, Any]:
            return function(*arguments, share=Share(jax.lax.axis_index("class"), self.columns, gather))

        everyone = self._by_device.spec
        inputs = (everyone, everyone, self._by_row.spec)
        return parallel.mapped(one_of_group, self._by_device, inputs=inputs, donate=True)

    def trace(self, step: Callable[..., Any], state: Any, params: Any, batch: Any) -> None:
        """Trace a step for the shapes of one device's state, params and batch, without running it; its first call does not trace again.

        Raises:
            Exception: whatever the function raises while it is traced.
        """
        nothing = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), np.shape(a)), (params, batch))
        rows = jax.tree.map(lambda a: np.broadcast_to(a, (self.rows, *a.shape)), nothing[1])
        cast(Any, step).lower(self.zeros(state), self.replicate(nothing[0]), self.shard(rows))

    def zeros(self, state: Any) -> Any:
        """A state of zeros on every device, in the shapes of one device's: leading axis = device."""
        count = self.rows * self.columns

        def made() -> Any:
            return jax.tree.map(lambda a: jax.numpy.zeros((count, *a.shape), a.dtype), state)

        return jax.jit(made, out_shardings=self._by_device)()

    def replicate(self, params: Any) -> Any:
        """One copy of every array on each device, once: leading axis = device."""
        return parallel.copies(params, self._by_device)

    def shard(self, batch: Any) -> Any:
        """A batch whose leading axis is the row, sent to all devices of each row."""
        return jax.device_put(batch, self._by_row)

    def by_device(self, state: Any) -> Iterator[tuple[int, Any]]:
        """The column of every device with its state as NumPy arrays, one device in the host's memory at a time."""
        for place in range(self.rows * self.columns):
            yield place % self.columns, jax.tree.map(lambda a, at=place: parallel.of_device(a, at), state)
