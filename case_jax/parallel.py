"""Devices: the only room that knows how many there are."""

from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def device_count() -> int:
    """Number of local devices that a step runs on."""
    return jax.local_device_count()


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
    """The function under `jax.pmap`: every argument and result has a leading device axis."""
    return jax.pmap(function, axis_name="devices")


def trace(step: Callable[..., Any], *arguments: Any) -> None:
    """Trace a step of `over_devices` for arguments of one device, without running it; its first call does not trace again.

    Raises:
        Exception: whatever the function raises while it is traced.
    """
    count, sharding = device_count(), _over_devices()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *np.shape(a)), a.dtype, sharding=sharding), arguments)
    cast(Any, step).lower(*shapes)
