"""The precision of sampling."""

from contextlib import AbstractContextManager

from diffexp.models.base import GenerativeModel
from diffexp.system.devices import autocast


def sampling_precision(model: GenerativeModel, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a model samples in a precision of `diffexp.system.devices.precision_for`.

    Args:
        model: the model, on its device.
        precision: "bf16-true" rounds the network's weights to bfloat16 once. "bf16-mixed" and "16-mixed" round them in
            every call, and keep sensitive operations in float32.

    Raises:
        UserError: for "bf16-true", if the model does not support it.
    """
    return model.in_bfloat16() if precision == "bf16-true" else autocast(precision, model.device)
