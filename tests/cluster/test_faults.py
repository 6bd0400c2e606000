"""What happens to a run when a rank, a node or the link between nodes goes, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.nodes import Nodes
from tests.cluster.runs import ended, losses, options, steps, torchrun, until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.usefixtures("nodes")]
STEPS = 60
MORE = {
    "training.max_steps": STEPS, "training.epochs": 100, "checkpoints.every_steps": 4, "resume": "auto",
    "training.hang_minutes": 0.5, "training.schedule": "constant", "model.check": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(nodes: Nodes, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of a run that nothing happened to, on one node."""
    run = tmp_path_factory.mktemp("whole") / "run"
    code, said = nodes.run(1, f"python launch/train.py {options(data, run, **MORE)}")
    assert code == 0, said[-3000:]
    return losses(run)


def struck(nodes: Nodes, said: str, run: Path, what: str) -> list[tuple[int, str]]:
    """A run on two nodes to which something happens after its sixth step."""
    processes = torchrun(nodes, said)
    until(lambda: steps(run) >= 6, processes)
    if what == "rank":
        nodes.run(2, "pkill -9 -f 'python.*launch/[t]rain.py'")
    elif what == "node":
        nodes.stop(2)
    else:
        nodes.cut()
    return ended(processes)


@pytest.mark.parametrize("what", ["rank", "node", "link"])
def test_the_others_end_say_so_and_the_run_goes_on_anywhere(
    what: str, nodes: Nodes, data: Path, whole: list[float], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = options(data, run, **MORE)
    try:
        found = struck(nodes, said, run, what)
    finally:
        nodes.cut(again=True)
        if what == "node":
            nodes.come_back(2)
    # Of a cut link whichever rank is the first to know speaks for both: their store is on the other link.
    (before, error), *others = [said.partition("error: ")[::2] for _, said in found]
    if what == "link":
        error = "".join([error, *(other for _, other in others)])
    assert found[0][0] != 0 and ("on node" if what == "link" else "rank 1 on node2") in error, found
    assert what == "link" or "Traceback" not in before, before[-3000:]
    assert steps(run) < STEPS
    if what == "node":  # it is back
        assert [code for code, _ in ended(torchrun(nodes, said))] == [0, 0]
    else:
        code, again = nodes.run(1, f"python launch/train.py {said}")
        assert code == 0, again[-3000:]
    assert losses(run) == pytest.approx(whole, rel=1e-3)


def test_more_than_one_rank_on_each_node(nodes: Nodes, data: Path, whole: list[float], tmp_path: Path) -> None:
    said = options(data, tmp_path / "run", **{**MORE, "training.max_steps": 4})
    assert [code for code, _ in ended(torchrun(nodes, said, ranks=2))] == [0, 0]
    assert losses(tmp_path / "run") == pytest.approx(whole[:4], rel=1e-4)


def test_a_run_folder_that_the_other_node_does_not_see(nodes: Nodes, data: Path, tmp_path: Path) -> None:
    """It is said before the first step, or the run is whole all the same: never half a checkpoint in silence."""
    run = tmp_path / "apart" / "run"
    run.parent.mkdir()
    code, said = nodes.run(2, f"mount -t tmpfs none {run.parent}")
    assert code == 0, said
    try:
        found = ended(torchrun(nodes, options(data, run, **{**MORE, "training.max_steps": 8})))
    finally:
        nodes.run(2, f"umount {run.parent}")
    said = "".join(text for _, text in found)
    assert [code for code, _ in found] != [0, 0], "half of the checkpoint lies on the other node"
    assert "error: " in said and "share" in said, said[-6000:]
