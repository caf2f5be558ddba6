"""CA-Stream (arXiv 2404.14996): pooling by the attention of a learnt token, the network that has it, and its training.

`pooling` has the equations, `module` what is learnt, `network` puts it into a tapped classifier, `task` trains it, `trained` is its file and its map.
"""

from case_jax.stream.module import Stream
from case_jax.stream.network import before_training, new_stream, stage_channels, with_stream
from case_jax.stream.pooling import Pooled, attention_pool, attention_scores
from case_jax.stream.task import stream_task
from case_jax.stream.trained import TrainedStream, load_stream, save_stream

__all__ = [
    "Pooled",
    "Stream",
    "TrainedStream",
    "attention_pool",
    "attention_scores",
    "before_training",
    "load_stream",
    "new_stream",
    "save_stream",
    "stage_channels",
    "stream_task",
    "with_stream",
]
