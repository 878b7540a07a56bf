"""Runs a model on one execution provider and on no other. Needs onnxruntime and numpy only.

python tests/deployment/run_provider.py PROVIDER MODEL ARRAYS RESULTS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime as ort
from arrays import read_arrays, write_arrays


def main(provider: str, model: str, arrays: str, results: str) -> None:
    """Run it, write what it gives, and print as JSON which provider ran how many nodes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(results).with_suffix(""))
    session = ort.InferenceSession(model, options, providers=[provider])
    feeds, _ = read_arrays(Path(arrays))
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, feeds)
    write_arrays(Path(results), feeds, dict(zip(names, outputs, strict=True)))
    ran: dict[str, int] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            by = event["args"].get("provider", "?")
            ran[by] = ran.get(by, 0) + 1
    print(json.dumps(ran))


if __name__ == "__main__":
    main(*sys.argv[1:])
