"""Grad-CAM and CASE of every class from an activation and its gradients, written out in NumPy."""

import numpy as np


def cam_and_case(activation, gradients, logits, *, rivals):
    """Both maps of every class, the contrast set being the likeliest other classes.

    Args:
        activation: (*space, K).
        gradients: of every logit with respect to it, (C, *space, K).
        logits: (C,).
        rivals: how many classes are in a contrast set.
    """
    activation, gradients, order = np.asarray(activation), np.asarray(gradients), np.argsort(-np.asarray(logits))
    alpha = gradients.reshape(len(gradients), -1, gradients.shape[-1]).mean(1)
    mean = np.stack([alpha[order[order != c][:rivals]].mean(0) for c in range(len(alpha))])
    beta = (alpha * mean).sum(1, keepdims=True) / ((mean**2).sum(1, keepdims=True) + 1e-8)
    return {
        name: np.maximum(np.einsum("...k,ck->c...", activation, weights), 0)
        for name, weights in (("grad_cam", alpha), ("case", alpha - beta * mean))
    }
