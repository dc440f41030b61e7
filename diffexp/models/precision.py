"""The precision in which a model samples."""

from contextlib import AbstractContextManager

from diffexp.models.base import GenerativeModel
from diffexp.system.devices import autocast


def sampling_precision(model: GenerativeModel, precision: str) -> AbstractContextManager[object]:
    """The context in which a model samples in a precision of `diffexp.system.devices.precision_for`.

    Args:
        model: on its device.
        precision: bf16-true rounds the network's weights to bfloat16, once; bf16-mixed and 16-mixed round them in every
            call, and keep what needs it in float32.

    Raises:
        UserError: for bf16-true, if the model cannot sample in it.
    """
    return model.in_bfloat16() if precision == "bf16-true" else autocast(precision, model.device)
