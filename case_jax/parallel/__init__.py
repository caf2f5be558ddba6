"""Devices and processes: the only room that knows how many there are, and where every program is compiled and gets its precision."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, cast, get_args

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from case_jax._checks import CaseJaxError, require, unknown

HEARTBEAT_SECONDS = 20
"""After so long without a sign of life a process counts as dead, and JAX ends the others."""
WAIT_SECONDS = 7 * 24 * 3600
"""How long a process that is done waits for the others: as long as they live."""
EXACT = "highest"
"""Precision of the products and convolutions of every program: with it float32 means float32 on GPUs and TPUs, too. What is to have
fewer bits says so itself, inside the program (`tap.precision`); training is a program of its own (`training.loop.PRECISION`)."""

Mapper = Literal["pmap", "shard_map"]
MAPPERS: tuple[Mapper, ...] = get_args(Mapper)
_MAPPER: ContextVar[Mapper] = ContextVar("mapper", default="pmap")
_COMPILED_NOW: list[Any] = []


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
    return copies(tree, _over_devices())


def copies(tree: Any, sharding: NamedSharding) -> Any:
    """One copy of every array on each local device, in this layout."""
    count = device_count()
    return jax.tree.map(
        lambda a: jax.device_put(np.broadcast_to(np.asarray(a)[None], (count, *np.shape(a))), sharding), tree
    )


def shard(tree: Any) -> Any:
    """Arrays whose leading axis is the device, sent to the devices."""
    return jax.device_put(tree, _over_devices())


def with_precision(function: Callable[..., Any], precision: str = EXACT) -> Callable[..., Any]:
    """The function, traced so that every product and convolution in it states a precision: this one where it asks for no other."""

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return traced


def on_one_device(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function compiled for one device, for programs that are not worth distributing; `options` are `jax.jit`'s."""
    return jax.jit(with_precision(function), **options)


@contextlib.contextmanager
def mapped_by(mapper: Mapper) -> Iterator[None]:
    """Steps that are made inside run under this one of JAX's two ways onto several devices; the numbers are the same, bit for bit.

    Raises:
        CaseJaxError: for another name than `pmap` or `shard_map`.
    """
    if mapper not in MAPPERS:
        raise unknown("mapper", mapper, MAPPERS)
    before = _MAPPER.set(mapper)
    try:
        yield
    finally:
        _MAPPER.reset(before)


def mapped(
    function: Callable[..., Any],
    everyone: NamedSharding,
    *,
    inputs: Any = None,
    donate: bool = False,
    everywhere: bool = False,
) -> Callable[..., Any]:
    """A function of one device's arrays on every device of a mesh; arguments and results have a leading axis over the devices.

    The only place that knows `jax.pmap`, which JAX keeps as a wrapper of the other way. Nothing is known of replication in either
    (`check_vma=False`): else gradients with respect to constants would be summed over devices in silence.

    Args:
        function: may use collectives over the axes of the mesh.
        everyone: the devices, and the layout of an array with a slice for each of them.
        inputs: layouts of the arguments, where not all are like `everyone`; `jax.pmap` knows no others.
        donate: reuse the first argument's memory.
        everywhere: on the devices of all processes, each of which gives the arguments of its own.
    """
    everywhere = everywhere and jax.process_count() > 1
    accepted = "pmap, for a step that several processes share"
    require(not everywhere or _MAPPER.get() == "pmap", "mapper", _MAPPER.get(), accepted)
    mesh, donated = cast(Mesh, everyone.mesh), (0,) if donate else ()
    if inputs is None and _MAPPER.get() == "pmap":
        devices = None if everywhere else list(mesh.devices.flat)
        program = jax.pmap(function, axis_name=mesh.axis_names[0], devices=devices, donate_argnums=donated)
        return _compiled_apart(program)

    def one(*arguments: Any) -> Any:
        return jax.tree.map(lambda a: a[None], function(*jax.tree.map(lambda a: a[0], arguments)))

    split = jax.shard_map(one, mesh=mesh, in_specs=inputs or everyone.spec, out_specs=everyone.spec, check_vma=False)
    return _compiled_apart(jax.jit(split, donate_argnums=donated))


def _compiled_apart(program: Any) -> Callable[..., Any]:
    """The program, compiled before its first run instead of during it, so that `compiling` can tell one from the other.

    JAX keeps what is compiled for these arguments: the run that follows finds it.
    """
    new = True

    @wraps(program)
    def run(*arguments: Any) -> Any:
        nonlocal new
        if new and not any(isinstance(a, Tracer) for a in jax.tree.leaves(arguments)):
            _COMPILED_NOW.append(program)
            try:
                program.lower(*arguments).compile()
            finally:
                _COMPILED_NOW.remove(program)
            new = False
        return program(*arguments)

    cast(Any, run).lower = program.lower
    return run


def compiling() -> bool:
    """Whether a step is being compiled for its first run just now, whichever thread asks."""
    return bool(_COMPILED_NOW)


def over_devices(
    function: Callable[..., Any], *, precision: str = EXACT, donate: bool = False, everywhere: bool = False
) -> Callable[..., Any]:
    """The function under `jax.pmap` (see `mapped_by`) over this process's devices: every argument and result has a leading device axis.

    With `donate` the first argument's memory is reused: it must not be used again. With `everywhere` it runs over the devices of all
    processes, which call it together, each with the arguments of its own devices, of which all have equally many.
    """
    return mapped(with_precision(function, precision), _over_devices(), donate=donate, everywhere=everywhere)


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


def of_device(array: jax.Array, place: int) -> np.ndarray:
    """The slice of one device, on the host; `array[place]` would gather from all devices."""
    return next(np.asarray(s.data)[0] for s in array.addressable_shards if (s.index[0].start or 0) == place)


def first_of(tree: Any) -> Any:
    """The first device's arrays, on the host."""
    return jax.tree.map(lambda a: of_device(a, 0), tree)


def stand_ins(arguments: Any) -> Any:
    """Zeros in the shapes of one device's arguments, for a step of `over_devices`: leading axis = device."""
    # where there are several processes, pmap takes no shapes, only arrays
    return replicate(jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), np.shape(a)), arguments))


def trace(step: Callable[..., Any], *arguments: Any) -> Any:
    """Trace a step of `over_devices` for arguments of one device, without running it; its first call does not trace again.

    Returns:
        The lowered step, which can be compiled.

    Raises:
        Exception: whatever the function raises while it is traced.
    """
    return cast(Any, step).lower(*stand_ins(arguments))
