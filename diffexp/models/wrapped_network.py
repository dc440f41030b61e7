"""Wrappers of a network that keep its signature."""

from collections.abc import Callable

from torch import Tensor


def in_bfloat16(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a network so that it receives x_t in bfloat16."""
    return lambda x, *others: network(x.bfloat16(), *others)


def with_callback(network: Callable[..., Tensor], on_call: Callable[[], object]) -> Callable[..., Tensor]:
    """Wrap a network so that it calls `on_call` after every call."""

    def call(*inputs: Tensor) -> Tensor:
        output = network(*inputs)
        on_call()
        return output

    return call
