"""Runs the original model: gets its results on every set of inputs, and how far rounding moves them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from onnx_cbp.checking.convention import as_biased
from onnx_cbp.checking.differences import FLOOR, Difference, incomparable, is_float, magnitude, measure
from onnx_cbp.checking.feeding.input_sets import ACCUMULATING, SMALL_VARIANCES, USUAL, accumulating, near_epsilon
from onnx_cbp.checking.feeding.inputs import make_inputs
from onnx_cbp.checking.feeding.roles import Kind, Role, find_roles
from onnx_cbp.checking.feeding.seeding import seeded
from onnx_cbp.checking.models import Model, Results
from onnx_cbp.checking.rounding import RUNS, slightly_off
from onnx_cbp.checking.yardstick import as_meant, with_statistics


class Original:
    """The yardstick of a comparison: every other model is compared with this one.

    Args:
        model: the original.
        written: the inputs that any of the models writes in place.
        seed: of the random inputs, and of random ops.
        batch: the size of every symbolic dimension of the inputs.

    Raises:
        OnnxCbpError: the model cannot be run, or no inputs can be made for it.
    """

    def __init__(self, model: Model, written: set[str], seed: int, batch: int) -> None:
        self._written, self._seed = written, seed
        self._roles = find_roles(model.graph, batch)
        usual = make_inputs(model.graph, self._roles, seed, batch)
        self._model = seeded(as_meant(model), seed)
        self._feeds = {USUAL: usual}
        self._results = {USUAL: self._run(usual)}
        self._kinds = {name: _kind(name, value, self._roles) for name, value in self._results[USUAL].items()}
        more = {
            SMALL_VARIANCES: near_epsilon(usual, self._roles, model.graph),
            ACCUMULATING: accumulating(usual, self._roles, self._results[USUAL]),
        }
        for name, feeds in more.items():
            if feeds is not None:
                self._feeds[name], self._results[name] = feeds, self._run(feeds)
        self._noise: dict[str, dict[str, float]] = {}

    def run(self, model: Model) -> dict[str, Results]:
        """Another model's results by set of inputs, as a user would run it: with all graph optimisations.

        Only running variances are in the original's convention, which is ONNX's.
        """
        model = seeded(as_biased(with_statistics(model)), self._seed)
        return {
            name: model.results(feeds, self._written, as_written=False, seed=self._seed)
            for name, feeds in self._feeds.items()
        }

    def differences(self, results: Mapping[str, Results], rtol: float | None = None) -> list[Difference]:
        """Compare the result of `run` with the original: each result on the inputs where it differs most.

        Args:
            results: the result of `run`.
            rtol: the relative difference allowed. None: as `Difference.tolerance` says, with the noise measured if some
                result is not within it.
        """
        return self.between(self._results, results, rtol)

    def between(
        self, first: Mapping[str, Results], second: Mapping[str, Results], rtol: float | None = None
    ) -> list[Difference]:
        """The same for two other models: compares the second with the first."""
        worst: dict[str, Difference] = {}
        for inputs, before in first.items():
            differences = self._measured(inputs, before, second[inputs])
            if rtol is None and any(d.problem is None and not d.within() for d in differences):
                noise = self._rounding_noise(inputs)
                differences = [dataclasses.replace(d, noise=noise.get(d.kind, 0.0)) for d in differences]
            for d in differences:
                if d.name not in worst or _badness(d, rtol) > _badness(worst[d.name], rtol):
                    worst[d.name] = d
        return list(worst.values())

    def _run(self, feeds: Mapping[str, np.ndarray]) -> Results:
        # Without optimisations, because these break the yardstick: ConstantSharing makes a fresh batch norm's scale and
        # running variance one tensor, and BatchNormalization overwrites it while it still reads it (onnxruntime#29790).
        return self._model.results(feeds, self._written, as_written=True, seed=self._seed)

    def _measured(self, inputs: str, before: Results, after: Results) -> list[Difference]:
        return [dataclasses.replace(d, inputs=inputs) for d in self._measure(inputs, before, after)]

    def _measure(self, inputs: str, before: Results, after: Results) -> Iterator[Difference]:
        floors = self._floors(self._results[inputs])
        for name in dict.fromkeys((*before, *after)):
            if name not in before or name not in after:
                where = "rewritten" if name in before else "original"
                yield incomparable(name, "output", f"missing in the {where} model")
                continue
            kind = self._kinds.get(name, "output")
            yield measure(name, kind, before[name], after[name], floors.get(kind, 0.0))

    def _floors(self, results: Results) -> dict[str, float]:
        """The least divisor for a difference of each kind; a loss is judged alone."""
        floors: dict[str, float] = {}
        for name, array in results.items():
            kind = self._kinds[name]
            if kind != "loss" and is_float(array):
                floors[kind] = max(floors.get(kind, 0.0), FLOOR * magnitude(array))
        return floors

    def _rounding_noise(self, inputs: str) -> dict[str, float]:
        """By kind, the largest relative difference between the original and itself on slightly different inputs."""
        if inputs not in self._noise:
            feeds, before = self._feeds[inputs], self._results[inputs]
            generator = np.random.default_rng([self._seed, 1])
            noise: dict[str, float] = {}
            for _ in range(RUNS):
                again = self._run(slightly_off(feeds, self._roles, generator))
                for d in self._measured(inputs, before, again):
                    if math.isfinite(d.relative) and is_float(before[d.name]):
                        noise[d.kind] = max(noise.get(d.kind, 0.0), d.relative)
            self._noise[inputs] = noise
        return self._noise[inputs]


def _badness(difference: Difference, rtol: float | None) -> tuple[bool, float]:
    return not difference.within(rtol), difference.relative


def _kind(name: str, value: np.ndarray, roles: Mapping[str, Role]) -> str:
    if name in roles:
        return "gradient" if roles[name].kind is Kind.BUFFER else "running statistic"
    if is_float(value) and "grad" in name.lower():
        return "gradient"  # the name in gradient graphs, also in ONNX Runtime's
    return "loss" if is_float(value) and value.size == 1 else "output"
