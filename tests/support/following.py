"""Replicas follow one process: each of its steps is taken by them too, from the same state, each with its part.

Compared is with the original in float32, whose own rounding `Step.tolerance` allows for, and, where it is known, with
the whole batch in float64, where there is nothing to allow for.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

import onnx_cbp
from onnx_cbp.training import Artifacts
from onnx_cbp.training.compare import Batch, gradient_differences
from support.gradients.switches import Ties, switches, with_outputs
from support.replicas import start
from support.training import trainer

LOSS = 1e-5
GRADIENTS = 1e-5
STATISTICS = 1e-6
#: Some steps are worse conditioned in float32: the original's own gradients move by more than that when its weights are
#: moved by one ulp, of which this many draws are made. There it is twice that, since both sides round, but no more than
#: what tests/training holds one process to.
DRAWS = 3
GRADIENTS_AT_MOST = 5e-5
#: As in tests/training: how near to a kink or a tie what passes in one graph only may be, and how many do in a step.
FLIP_SIZE = 5e-6
FLIPS = 4
#: Where each replica's part of a batch begins, by number of replicas: unequal, and none for one of four.
PARTS = {2: (0.3,), 3: (0.55, 0.7), 4: (0.2, 0.6, 0.6)}


@dataclasses.dataclass
class Step:
    """What one step of the whole batch gives.

    Attributes:
        loss, gradients: of the batch.
        tolerance: how far the gradients of replicas may be from them.
        exact: the gradients in float64, where they are known.
        after: running statistics, by group.
        watched: outputs, by group.
    """

    loss: float
    gradients: dict[str, np.ndarray]
    tolerance: float
    exact: dict[str, np.ndarray] | None
    after: list[dict[str, np.ndarray]]
    watched: list[dict[str, np.ndarray]]


class Task:
    """What replicas, in groups that synchronise, are to follow: one process that trains the original.

    Args:
        artifacts: the original's.
        made: the batches.
        folder: for files.
        parts: the ranks of each group.
        bounds: where each replica's part of a batch begins, by the batch's number, instead of `PARTS`.
        exact: a function of a state and a batch, the gradients in float64.
        options: of `rewrite`.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        made: Sequence[Batch],
        folder: Path,
        parts: list[list[int]],
        bounds: dict[int, list[int]] | None = None,
        exact: Callable[[Mapping[str, np.ndarray], Batch], dict[str, np.ndarray]] | None = None,
        **options,
    ) -> None:
        self.parts, self.results = parts, folder / "results"
        self.watched = switches(onnx.load(artifacts.training_model).graph)
        original = with_outputs(artifacts, {name for switch in self.watched for name in switch.outputs}, folder)
        graph = onnx.load(original.training_model).graph
        self.outputs = [value.name for value in graph.output if not value.name.endswith(".accumulation.out")]
        record, self.cuts = {"steps": np.array(len(made)), "inputs": np.array(len(made[0]))}, []
        for number, batch in enumerate(made):
            n = len(batch[0])
            self.cuts.append((bounds or {}).get(number) or [0, *(round(n * part) for part in PARTS[self.replicas]), n])
            record[f"{number}/bounds"] = np.array(self.cuts[-1])
            record |= {f"{number}/input/{i}": value for i, value in enumerate(batch)}
        self.steps = _one_process(original, made, self.cuts, parts, self.outputs, record, exact)
        rewritten = folder / "rewritten.onnx"
        rewritten.write_bytes(_rewritten(original.training_model.read_bytes(), **options))
        if artifacts.checkpoint != folder / "checkpoint":
            shutil.copy(artifacts.checkpoint, folder / "checkpoint")
        np.savez(folder / "record.npz", **record)
        self.results.mkdir()
        files = {"training_model": rewritten, "record": folder / "record.npz", "results": self.results}
        self.files = {what: str(file) for what, file in files.items()}

    @property
    def replicas(self) -> int:
        return sum(map(len, self.parts))


@functools.cache
def _rewritten(model: bytes, **options) -> bytes:
    """The same few models are followed by replicas of every number and kind."""
    return onnx_cbp.rewrite(onnx.load_from_string(model), data_parallel=True, **options).SerializeToString()


def follow(engine: str, folder: Path, *tasks: Task, groups: dict[str, list[list[int]]] | None = None) -> None:
    """Let the same replicas follow one process in each task, one task after the other."""
    (replicas,) = {task.replicas for task in tasks}
    outcomes = start(engine, "follows_steps", replicas, folder, groups=groups, tasks=[task.files for task in tasks])
    for rank in range(replicas):
        assert "result" in outcomes[rank], outcomes  # the first to fail may be another one
    for task in tasks:
        _judge(task, [dict(np.load(task.results / f"{rank}.npz")) for rank in range(replicas)])


def _one_process(original, made, cuts, parts, outputs, record, exact) -> list[Step]:
    """Train the original. A group is one batch; the loss is that of all groups, weighted by their samples."""
    trained, alone = trainer(original), trainer(original)
    steps = []
    for number, (batch, cut) in enumerate(zip(made, cuts, strict=True)):
        state = trained.values()
        record |= {f"{number}/state/{name}": value for name, value in state.items()}
        nothing = {name: 0.0 * value for name, value in trained.gradients().items()}
        step = Step(0.0, nothing, 0.0, exact(state, batch) if exact else None, [], [])
        moved = [dict(step.gradients) for _ in range(DRAWS)]
        for part in parts:
            mine = np.concatenate([np.arange(cut[rank], cut[rank + 1]) for rank in part])
            alone.set_values(state)
            alone.module.train()
            alone.module.lazy_reset_grad()
            values = dict(zip(outputs, alone.module(*(value[mine] for value in batch)), strict=True))
            share = len(mine) / len(batch[0])
            step.loss += share * float(values[outputs[0]])
            for name, gradient in alone.gradients().items():
                step.gradients[name] = step.gradients[name] + share * gradient
            step.after.append({name: value for name, value in alone.values().items() if "running" in name})
            step.watched.append(values)
            for draw, total in enumerate(moved):
                alone.set_values(by_one_ulp(state, DRAWS * number + draw))
                alone.forward_backward([value[mine] for value in batch])
                for name, gradient in alone.gradients().items():
                    total[name] = total[name] + share * gradient
        by_itself = max(max(gradient_differences(step.gradients, total).values()) for total in moved)
        step.tolerance = min(max(GRADIENTS, 2 * by_itself), GRADIENTS_AT_MOST)
        steps.append(step)
        trained.step(batch)
    return steps


def by_one_ulp(state: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """A state with every weight moved up or down by one ulp."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, value in state.items():
        up_or_down = rng.choice([-np.inf, np.inf], value.shape).astype(value.dtype)
        moved[name] = value if "running" in name else np.nextafter(value, up_or_down)
    return moved


def _judge(task: Task, found: list[dict[str, np.ndarray]]) -> None:
    steps, watched = task.steps, task.watched
    losses, gradients, statistics, flips = [], [], [], []
    for number, (step, cut) in enumerate(zip(steps, task.cuts, strict=True)):
        first = {name: found[0][f"{number}/gradient/{name}"] for name in step.gradients}
        for mine in found:
            losses.append(abs(float(mine[f"{number}/output/0"]) / step.loss - 1))
            for name, gradient in first.items():
                np.testing.assert_array_equal(mine[f"{number}/gradient/{name}"], gradient, "on all replicas the same")
        gradients.append(max(gradient_differences(step.gradients, first).values()))
        flips.append([])
        for part, after, want in zip(task.parts, step.after, step.watched, strict=True):
            for rank in part:
                have = {name: found[rank][f"{number}/after/{name}"] for name in after}
                statistics.append(max(gradient_differences(after, have, 0.0).values(), default=0.0))
            got = _joined(found, number, [rank for rank in part if cut[rank] < cut[rank + 1]], watched, task.outputs)
            flips[-1] += [switch.flips(got, want) for switch in watched]
    flips = [np.concatenate(each) if each else np.array([]) for each in flips]
    judged = [difference for difference, flipped in zip(gradients, flips, strict=True) if not flipped.size]
    allowed = [step.tolerance for step, flipped in zip(steps, flips, strict=True) if not flipped.size]
    sizes = np.concatenate(flips)
    print(
        f"{task.results.parent.name}: loss {max(losses):.1e}, statistics {max(statistics):.1e}, "
        f"gradients {max(judged, default=np.inf):.1e} in {len(judged)} of {len(steps)} steps; "
        f"{sizes.size} flips in the others, gradients {max(gradients):.1e}; "
        f"{sum(tolerance > GRADIENTS for tolerance in allowed)} steps are worse conditioned than {GRADIENTS}"
    )
    assert np.max(losses) <= LOSS  # not max(), which may pass over a NaN
    assert np.max(statistics) <= STATISTICS
    assert sizes.max(initial=0) <= FLIP_SIZE
    assert max(flipped.size for flipped in flips) <= FLIPS
    assert len(judged) >= len(steps) / 2
    for difference, tolerance in zip(judged, allowed, strict=True):
        assert difference <= tolerance
    _judge_exactly(steps, found[0], flips)


def _judge_exactly(steps: list[Step], found: dict[str, np.ndarray], flips: list[np.ndarray]) -> None:
    """Against float64, where a step that flips from float32 is told by the original, which is then far off itself."""
    theirs, ours = [], []
    for number, (step, flipped) in enumerate(zip(steps, flips, strict=True)):
        if step.exact is None:
            continue
        theirs.append(max(gradient_differences(step.exact, step.gradients).values()))
        if not flipped.size and theirs[-1] <= GRADIENTS_AT_MOST:
            have = {name: found[f"{number}/gradient/{name}"] for name in step.exact}
            ours.append(max(gradient_differences(step.exact, have).values()))
    if theirs:
        print(
            f"from float64: original {max(theirs):.1e}, replicas {max(ours, default=np.inf):.1e} in {len(ours)} steps"
        )
        assert len(ours) >= len(steps) / 2
        assert max(ours) <= GRADIENTS


def _joined(found, number, ranks, watched, outputs) -> dict[str, np.ndarray]:
    """The watched values of replicas as one batch; a MaxPool's indices count from the start of it."""
    joined: dict[str, list[np.ndarray]] = {}
    for switch in watched:
        before = 0
        for rank in ranks:
            values = {name: found[rank][f"{number}/output/{outputs.index(name)}"] for name in switch.outputs}
            data = values[switch.data]
            if isinstance(switch, Ties):
                values[switch.indices] = values[switch.indices] + before
                before += data.size
            for name, value in values.items():
                joined.setdefault(name, []).append(value)
    return {name: np.concatenate(values[-len(ranks) :]) for name, values in joined.items()}
