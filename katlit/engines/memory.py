"""Bytes that an engine's copy of the policy takes, and its keys and values."""

import torch

from katlit.model.shape import Shape


def weight_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of the policy's weights; the output head is never tied, and MTP modules stay out.

    Args:
        shape: Shape of the policy.
        dtype: Type of the weights, by torch's name.
    """
    return (shape.parameters + (shape.embedding if shape.tied else 0)) * _number_bytes(dtype)


def cache_bytes(shape: Shape, dtype: str, tokens: int) -> int:
    """Bytes of keys and values.

    Args:
        shape: Shape of the policy.
        dtype: Type of keys and values, by torch's name.
        tokens: Number of tokens that are kept.
    """
    return tokens * 2 * shape.layers * shape.key_value * _number_bytes(dtype)


def _number_bytes(dtype: str) -> int:
    number: torch.dtype = getattr(torch, dtype)
    return number.itemsize
