"""Devices and processes: the only room that knows how many there are."""

from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from case_jax._checks import CaseJaxError

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


def on_device(array: np.ndarray) -> jax.Array:
    """An array of the host as JAX's own; compiles nothing, where `jnp.asarray` compiles a program for each shape."""
    return jax.device_put(array)


def _over_devices() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), ("devices",)), PartitionSpec("devices"))


def replicate(tree: Any) -> Any:
    """One copy of every array on each local device, once: leading axis = device."""
    count, sharding = device_count(), _over_devices()
    return jax.tree.map(
        lambda a: jax.device_put(np.broadcast_to(np.asarray(a)[None], (count, *np.shape(a))), sharding), tree
    )


def shard(tree: Any) -> Any:
    """Arrays whose leading axis is the device, sent to the devices."""
    return jax.device_put(tree, _over_devices())


def over_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under `jax.pmap` over this process's devices: every argument and result has a leading device axis."""
    return jax.pmap(function, axis_name="devices", devices=jax.local_devices())


def trace(step: Callable[..., Any], *arguments: Any) -> None:
    """Trace a step of `over_devices` for arguments of one device, without running it; its first call does not trace again.

    Raises:
        Exception: whatever the function raises while it is traced.
    """
    # where there are several processes, pmap takes no shapes, only arrays
    zeros = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), np.shape(a)), arguments)
    cast(Any, step).lower(*replicate(zeros))
