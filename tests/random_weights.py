"""Weight files of random numbers under PyTorch's names, for tests that load networks."""

import json
from functools import partial

import numpy as np
from safetensors.numpy import save_file

from case_jax.models import MODELS
from case_jax.models.weights import abstract, flat_state


def write_random_weights(folder, name, classes, config, **sizes):
    """`model.safetensors` of a bundled network, by other sizes where they are given, and timm's `config.json` beside it; returns the file."""
    build = partial(_with_sizes, MODELS[name].family.build, sizes) if sizes else MODELS[name].build
    rng, state = np.random.default_rng(0), {}
    for path, variable in flat_state(abstract(build, classes)).items():
        parent, _, leaf = path.rpartition(".")
        torch_name = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(variable.shape), range(len(variable.shape)))
        shape = [variable.shape[i] for i in axes]
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 25
        array = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        state[f"{parent}.{torch_name.get(leaf, leaf)}"] = np.abs(array) + 1 if leaf == "var" else array
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architecture": name, **config}))
    return folder / "model.safetensors"


def _with_sizes(build, sizes, num_classes, *, rngs):
    return build(num_classes=num_classes, rngs=rngs, **sizes)
