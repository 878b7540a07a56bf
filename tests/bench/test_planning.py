"""The tables of docs/internals/planning.md are those of the program, and its model is the one on the page."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "internals" / "planning.md"
BENCHMARKS = ROOT / "benchmarks"
POWERS = [2, 4, 8, 64, 4096]


@pytest.fixture
def program(monkeypatch):
    """The program's modules: scripts beside one another, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import alpha_beta
    import planning
    import resnet50

    yield {"planning": planning, "alpha_beta": alpha_beta, "resnet50": resnet50}
    for name in ("planning", "alpha_beta", "resnet50", "interconnects"):
        sys.modules.pop(name, None)


def regenerated(page: Path) -> str:
    command = [sys.executable, str(BENCHMARKS / "planning.py"), "--page", str(page)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return page.read_text()


def test_the_page_has_the_tables_that_the_program_makes(tmp_path):
    page = tmp_path / "planning.md"
    page.write_text(PAGE.read_text())
    assert regenerated(page) == PAGE.read_text(), "run: python benchmarks/planning.py --page docs/internals/planning.md"


def test_a_changed_number_or_a_missing_table_is_noticed(tmp_path, program):
    text = PAGE.read_text()
    page = tmp_path / "planning.md"
    page.write_text(text.replace("| 428,776 |", "| 428,777 |"))
    assert page.read_text() != text
    assert regenerated(page) == text
    with pytest.raises(ValueError, match="no mark for gathered"):
        program["planning"].fill(text.replace("<!-- planning: gathered -->", ""))
    with pytest.raises(KeyError, match="nothing"):
        program["planning"].fill(text + "<!-- planning: nothing -->\n")


def test_a_price_changes_the_page(program, monkeypatch):
    planning, text = program["planning"], PAGE.read_text()
    assert planning.fill(text) == text
    monkeypatch.setattr(planning, "FROM_MEMORY", 2 * planning.FROM_MEMORY)
    assert planning.fill(text) != text


def test_the_architecture_is_resnet_50(program):
    resnet50 = program["resnet50"]
    assert (len(resnet50.batch_norms()), sum(resnet50.batch_norms())) == (53, 26560)
    assert resnet50.parameters() == 25_557_032  # as torchvision counts them
    assert sum(resnet50.bucket_bytes(25 * 2**20)) == 4 * 25_557_032 + 4 * 4 * 8
    # docs/distributed.md: 16 C + 72 bytes forward, 16 C + 64 backward.
    assert [resnet50.forward_bytes(c) - 16 * c for c in (64, 2048)] == [72, 72]
    assert [resnet50.backward_bytes(c) - 16 * c for c in (64, 2048)] == [64, 64]


def test_header_is_the_messages_own(program):
    replica = pytest.importorskip("onnx_cbp.distributed.replica")
    assert replica.HEADER == program["resnet50"].HEADER


def counts(algorithm):
    return (
        sum(s.number for s in algorithm),
        sum(s.number * s.moved for s in algorithm),
        sum(s.number * s.summed for s in algorithm),
    )


@pytest.mark.parametrize("replicas", POWERS)
def test_costs_are_those_of_the_literature(program, replicas):
    model, n = program["alpha_beta"], 1000.0
    lg, others, share = math.log2(replicas), replicas - 1, (replicas - 1) / replicas
    expected = {
        model.gather_ring: (others, others * n, 0),
        model.gather_doubling: (lg, others * n, 0),
        model.reduce_doubling: (lg, lg * n, lg * n),
        model.reduce_halving: (2 * lg, 2 * share * n, share * n),
        model.reduce_ring: (2 * others, 2 * share * n, share * n),
        model.reduce_tree: (2 * lg, 2 * lg * n, lg * n),
    }
    for algorithm, cost in expected.items():
        assert counts(algorithm(n, replicas)) == pytest.approx(cost), algorithm.__name__


@pytest.mark.parametrize("replicas", [3, 5, 6, 7, 100])
def test_any_number_of_replicas(program, replicas):
    model, n = program["alpha_beta"], 1000.0
    assert counts(model.gather_doubling(n, replicas))[:2] == (math.ceil(math.log2(replicas)), (replicas - 1) * n)
    lg = math.floor(math.log2(replicas))
    assert counts(model.reduce_doubling(n, replicas)) == (lg + 2, (lg + 2) * n, (lg + 1) * n)


def test_mpich_goes_round_the_ring_by_what_all_send(program):
    model = program["alpha_beta"]
    for n, replicas, ring in [
        (8000, 64, False),
        (8264, 64, True),
        (1096, 512, True),
        (32000, 3, True),
        (20000, 3, False),
    ]:
        made = (model.gather_ring if ring else model.gather_doubling)(n, replicas)
        assert model.mpich_gather(n, replicas) == made, (n, replicas)
    assert model.mpich_reduce(2048, 8, 8) == model.reduce_doubling(2048, 8)
    assert model.mpich_reduce(2056, 8, 8) == model.reduce_halving(2056, 8)
    assert model.mpich_reduce(2112, 512, 8) == model.reduce_doubling(2112, 512)  # 264 elements


def test_long_messages_pay_the_handshake(program):
    model = program["alpha_beta"]
    interconnect = model.Interconnect("n", alpha=1.0, beta=0.5, gamma=0.25, eager=10, handshake=100.0, call=1000.0)
    assert interconnect.seconds([model.Steps(2, 10, 4)]) == 1000 + 2 * (1 + 5 + 1)
    assert interconnect.seconds([model.Steps(2, 11)]) == 1000 + 2 * (1 + 100 + 5.5)
