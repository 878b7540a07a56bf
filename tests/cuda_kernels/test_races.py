"""The CUDA kernels with the threads of a block at the same time: ThreadSanitizer sees what no barrier keeps apart.

A phase of a block is run by 8 threads of the processor, which wait for one another where a GPU's threads do. What they
cannot show are a GPU's own memory model and barriers inside a warp.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from onnx_cbp.custom_ops import OPERATORS
from support.gpu.cuda_host import DEVICES, program, run_on_host
from support.kernel_cases import TYPES, USUAL_TYPES, assert_same_bits, describe
from support.ops import WITH_CUDA_KERNELS, make_case
from support.programs.sanitizers import threads_command

pytestmark = pytest.mark.native

#: By plane, in one pass and in two, by tiles, channels last, with ends that fill no vector and no warp.
SHAPES = [
    ((3, 2, 63), 1),
    ((33, 130), 1),
    ((4, 3, 6, 6), 1),
    ((21, 2, 10, 10), 1),
    ((1, 2, 13_001), 1),
    ((5, 4, 4, 3), -1),
]


def _command(*arguments: str) -> list[str]:
    return threads_command([str(program("check_races")), *arguments])


@pytest.mark.parametrize(
    ("device", "dealing"), [("H100", "0"), ("H100", "1"), ("H100", "2"), ("without shared memory", "1")]
)
@pytest.mark.parametrize("name", WITH_CUDA_KERNELS)
def test_threads_of_a_block_keep_out_of_each_other_s_way(name, dealing, device):
    operator = OPERATORS[name]
    types = USUAL_TYPES if dealing != "1" or device != "H100" else TYPES
    cases = [
        make_case(name, shape, axis=axis, data=data, statistics=statistics)
        for shape, axis in (SHAPES if operator.has_data else SHAPES[:2])
        for data, statistics in types
    ]
    alone = run_on_host(cases, DEVICES[device])
    together = run_on_host(cases, DEVICES[device], command=_command(dealing))
    for case, got, want in zip(cases, together, alone, strict=True):
        for formal, a, b in zip(operator.outputs, got, want, strict=True):
            assert_same_bits(a, b, f"{formal.name} of {describe(case)}")


def test_a_phase_that_lacks_a_barrier_is_found():
    planted = subprocess.run(_command("--planted"), capture_output=True, text=True, check=False)
    assert planted.returncode != 0
    assert re.search("WARNING: ThreadSanitizer: data race", planted.stderr)
    repaired = subprocess.run(_command("--repaired"), capture_output=True, text=True, check=False)
    assert (repaired.returncode, repaired.stderr) == (0, "")
