from pathlib import Path

import torch

from diffexp.system.devices import precision_for


def test_auto_computes_in_bfloat16_where_linux_says_that_the_cpu_can():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = "bf16-mixed" if {"avx512_bf16", "amx_bf16"} & flags else "32-true"
    assert precision_for("auto", torch.device("cpu")) == expected
