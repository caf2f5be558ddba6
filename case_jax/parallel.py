"""Devices and processes: the only room that knows how many there are."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from case_jax._checks import CaseJaxError, require

HEARTBEAT_SECONDS = 20
"""After so long without a sign of life a process counts as dead, and JAX ends the others."""
WAIT_SECONDS = 7 * 24 * 3600
"""How long a process that is done waits for the others: as long as they live."""


def join(coordinator: str | None = None, process_id: int | None = None, process_count: int | None = None) -> None:
    """Become one of several processes that share a run, before anything is computed.

    Args:
        coordinator: `host:port` of process 0; None, as the other two, asks the cluster's environment (TPU pods, Slurm, Open MPI).
        process_id: from 0.
        process_count: how many there are.

    Raises:
        CaseJaxError: when the others are not found within five minutes, or no cluster is.
    """
    given = None not in (coordinator, process_id, process_count)
    _share_threads(process_count or 1)
    jax.config.update(
        "jax_enable_preemption_service", False
    )  # it would swallow SIGTERM wherever `Stopping` is not entered
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes=process_count,
            process_id=process_id,
            cluster_detection_method="deactivate" if given else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=WAIT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise CaseJaxError(
            f"coordinator: the processes did not find each other ({str(error).splitlines()[0]}). Start every one with the same "
            "--coordinator HOST:PORT and --process-count, and its own --process-id; on a TPU pod, under Slurm or Open MPI give --pod alone."
        ) from error


def _share_threads(processes: int) -> None:
    """Give XLA's CPU back end the threads of one process with all devices: it splits long sums over them, so their number shows in the last bits.

    It makes as many as there are cores (NPROC, where that is set) or, where these are more, devices of the process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forced = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    local = int(forced[-1]) if forced else max(1, cast(Any, jax.config).jax_num_cpu_devices)
    os.environ.setdefault("NPROC", str(max(cores, processes * local)))


def leave() -> None:
    """Wait until all processes are here, and part."""
    jax.distributed.shutdown()


def process() -> tuple[int, int]:
    """Number of this process, and how many share the run."""
    return jax.process_index(), jax.process_count()


def meet(where: str) -> None:
    """Wait until all processes are here; nothing where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def gathered(text: str) -> list[str]:
    """A text of every process, by its number, in all of them."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size))
    width = 1 << int(sizes.max()).bit_length()  # few lengths: each compiles a program
    rows = multihost_utils.process_allgather(np.pad(mine, (0, width - mine.size)))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def devices_by_process() -> list[int]:
    """How many devices every process has, by its number."""
    found = Counter(device.process_index for device in jax.devices())
    return [found[number] for number in range(jax.process_count())]


def device_count() -> int:
    """Number of local devices that a step runs on."""
    return jax.local_device_count()


def device_memory() -> int | None:
    """Bytes that one local device may use; None where it does not say (processors)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def device_names() -> list[str]:
    """Kind of each local device, for run folders and benchmarks."""
    return [f"{d.platform}:{d.device_kind}" for d in jax.local_devices()]


def platform() -> str:
    """`cpu`, `gpu` or `tpu`."""
    return jax.local_devices()[0].platform


def on_device(array: np.ndarray) -> jax.Array:
    """An array of the host as JAX's own; compiles nothing, where `jnp.asarray` compiles a program for each shape."""
    return jax.device_put(array)


def _over_devices() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), ("devices",)), PartitionSpec("devices"))


def replicate(tree: Any) -> Any:
    """One copy of every array on each local device, once: leading axis = device."""
    return _copies(tree, _over_devices())


def _copies(tree: Any, sharding: NamedSharding) -> Any:
    count = device_count()
    return jax.tree.map(
        lambda a: jax.device_put(np.broadcast_to(np.asarray(a)[None], (count, *np.shape(a))), sharding), tree
    )


def shard(tree: Any) -> Any:
    """Arrays whose leading axis is the device, sent to the devices."""
    return jax.device_put(tree, _over_devices())


def over_devices(function: Callable[..., Any], *, donate: bool = False, everywhere: bool = False) -> Callable[..., Any]:
    """The function under `jax.pmap` over this process's devices: every argument and result has a leading device axis.

    With `donate` the first argument's memory is reused: it must not be used again. With `everywhere` it runs over the devices of all
    processes, which call it together, each with the arguments of its own devices, of which all have equally many.
    """
    donated = (0,) if donate else ()
    devices = None if everywhere else jax.local_devices()
    return jax.pmap(function, axis_name="devices", devices=devices, donate_argnums=donated)


def average(tree: Any) -> Any:
    """The mean over the devices, inside a function of `over_devices`; floating-point arrays only.

    Every device adds up its share of all numbers in the order of the devices and sends the sums around, so that the bits do not depend on
    how devices are spread over processes, as those of `jax.lax.pmean` do; and everything travels at once.
    """
    count = jax.lax.axis_size("devices")
    if count == 1:
        return tree
    with jax.numpy_dtype_promotion("standard"):
        flat, restore = ravel_pytree(tree)
    shares = jax.numpy.pad(flat, (0, -flat.size % count)).reshape(count, -1)
    mean = jax.lax.all_to_all(shares, "devices", 0, 0).mean(0)
    return restore(jax.lax.all_gather(mean, "devices", tiled=True)[: flat.size])


def largest(number: Any) -> Any:
    """The largest over the devices, inside a function of `over_devices`."""
    return jax.lax.pmax(number, "devices")


def device_index() -> jax.Array:
    """The number of the device, inside a function of `over_devices`."""
    return jax.lax.axis_index("devices")


def first_of(tree: Any) -> Any:
    """The first device's arrays, on the host."""
    return jax.tree.map(lambda a: np.asarray(a[0]), tree)


def trace(step: Callable[..., Any], *arguments: Any) -> None:
    """Trace a step of `over_devices` for arguments of one device, without running it; its first call does not trace again.

    Raises:
        Exception: whatever the function raises while it is traced.
    """
    # where there are several processes, pmap takes no shapes, only arrays
    zeros = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), np.shape(a)), arguments)
    cast(Any, step).lower(*replicate(zeros))


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

    With one column a step runs under `jax.pmap`, with more under `jax.shard_map`. There it must be local but for `Share.gather`, so
    nothing is known of replication (`check_vma=False`): else gradients with respect to constants would be summed over devices in silence.
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
        if self.columns == 1:
            whole = partial(function, share=ALONE)
            return jax.pmap(whole, axis_name="data", devices=jax.local_devices(), donate_argnums=0)

        def gather(array: jax.Array, axis: int) -> jax.Array:
            return jax.lax.all_gather(array, "class", axis=axis, tiled=True)

        def one_of_group(*arguments: Any) -> tuple[Any, Any]:
            share = Share(jax.lax.axis_index("class"), self.columns, gather)
            found = function(*jax.tree.map(lambda a: a[0], arguments), share=share)
            return jax.tree.map(lambda a: a[None], found)

        everyone, rows = self._by_device.spec, self._by_row.spec
        split = jax.shard_map(
            one_of_group,
            mesh=self._by_device.mesh,
            in_specs=(everyone, everyone, rows),
            out_specs=everyone,
            check_vma=False,
        )
        return jax.jit(split, donate_argnums=0)

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
        return _copies(params, self._by_device)

    def shard(self, batch: Any) -> Any:
        """A batch whose leading axis is the row, sent to all devices of each row."""
        return jax.device_put(batch, self._by_row)

    def by_device(self, state: Any) -> Iterator[tuple[int, Any]]:
        """The column of every device with its state as NumPy arrays, one device in the host's memory at a time."""
        for place in range(self.rows * self.columns):
            yield place % self.columns, jax.tree.map(lambda a, at=place: _of_device(a, at), state)


def _of_device(array: jax.Array, place: int) -> np.ndarray:
    return next(np.asarray(s.data)[0] for s in array.addressable_shards if (s.index[0].start or 0) == place)
