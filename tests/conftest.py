"""What this installation can run; a test that cannot run says why."""

from __future__ import annotations

import pytest

from onnx_cbp.custom_ops.library import find_library


def pytest_report_header() -> str:
    import onnx
    import onnxruntime

    library = "native library" if find_library() else "no native library"
    return f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, {library}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "native: needs the native library")
    config.addinivalue_line("markers", "training: needs ONNX Runtime's training build")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import onnxruntime

    for item in items:
        if item.get_closest_marker("native") and find_library() is None:
            item.add_marker(pytest.mark.skip(reason="a pure-Python installation has no native library"))
        if item.get_closest_marker("training") and not _has_training():
            reason = f"needs onnxruntime-training-cpu; onnxruntime {onnxruntime.__version__} is installed"
            item.add_marker(pytest.mark.skip(reason=reason))


def _has_training() -> bool:
    from onnxruntime.capi import _pybind_state

    return hasattr(_pybind_state, "Module")
