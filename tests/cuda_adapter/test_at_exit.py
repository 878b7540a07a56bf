"""A session that outlives the library of its ops, as one in a global of a C++ program does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest

from onnx_cbp.custom_ops.library import get_library_path
from support.gpu.cuda_adapter import needed_folder
from support.ops import make_case, op_model

SOURCE = Path(__file__).parent / "session_in_a_global.cc"


def test_a_session_in_a_global(tmp_path):
    """What was freed is filled with a pattern, so that using it ends the process."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to make a program with")
    cache = (needed_folder() / "CMakeCache.txt").read_text()
    headers = re.search(r"^ONNX_CBP_HEADERS:\w+=(.+)$", cache, re.MULTILINE)[1]
    (runtime,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    # The headers may be of a newer interface than the runtime, which is asked for its own.
    version = int(ort.__version__.split(".")[1])
    api = re.search(r"#define ORT_API_VERSION (\d+)", (Path(headers) / "onnxruntime_c_api.h").read_text())[1]
    source = SOURCE.read_text().replace("ORT_API_VERSION", str(min(version, int(api))))
    (tmp_path / SOURCE.name).write_text(source)
    soname = tmp_path / "libonnxruntime.so.1"
    soname.symlink_to(runtime)
    program = tmp_path / "program"
    command = ["g++", "-std=c++17", f"-I{headers}", str(tmp_path / SOURCE.name), str(runtime), "-o", str(program)]
    subprocess.run(command, check=True)
    model = tmp_path / "model.onnx"
    model.write_bytes(op_model(make_case("ChannelStats", (2, 3, 4))).SerializeToString())
    # Without the caches of threads, which are not filled.
    filled = {"MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    environment = {**os.environ, **filled, "LD_LIBRARY_PATH": f"{tmp_path}:{runtime.parent}"}
    done = subprocess.run(
        [program, get_library_path(), model], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "main ends\nthe session is gone\n"), done.stderr
