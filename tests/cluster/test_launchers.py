"""Every way to start ranks on two nodes trains what one process trains: docs/cluster.md shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.nodes import Nodes
from tests.cluster.runs import SHAPES, TRAIN, losses, options

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture(scope="module")
def alone(nodes: Nodes, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of one process on one node."""
    folder, found = tmp_path_factory.mktemp("alone"), {}
    for shape in SHAPES:
        code, said = nodes.run(1, f"python {TRAIN} {options(data, folder / shape, shape)}")
        assert code == 0, said[-3000:]
        found[shape] = losses(folder / shape)
    return found


def command(way: str, said: str, folder: Path) -> list[tuple[int, str]]:
    """What is typed on which node."""
    if way == "hostfile":
        return [(1, f"deepspeed --hostfile={folder}/hostfile --master_addr=10.77.1.1 {TRAIN} {said}")]
    if way == "no_ssh":
        return [
            (node, f"deepspeed --hostfile={folder}/hostfile --no_ssh --node_rank={node - 1} --master_addr=10.77.1.1 "
                   f"{TRAIN} {said}")
            for node in (1, 2)
        ]  # fmt: skip
    if way == "torchrun":
        return [
            (node, "torchrun --nnodes=2 --nproc_per_node=2 --rdzv_backend=c10d --rdzv_id=sparsepo "
                   f"--rdzv_endpoint=10.77.0.1:29411 {TRAIN} {said}")
            for node in (1, 2)
        ]  # fmt: skip
    passed = " ".join(f"-x {name}" for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME"))
    tcp = "--mca btl tcp,self --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0"
    return [
        (1, f"mpirun --allow-run-as-root --host node1:1,node2:1 {tcp} {passed} -x MASTER_ADDR=10.77.1.1 "
            f"-x MASTER_PORT=29412 python {TRAIN} {said}")
    ]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["hostfile", "no_ssh", "torchrun", "mpirun"])
def test_two_nodes_train_what_one_does(
    way: str, shape: str, nodes: Nodes, data: Path, alone: dict[str, list[float]], tmp_path: Path
) -> None:
    (tmp_path / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    (tmp_path / "deepspeed_env").write_text("GLOO_SOCKET_IFNAME=eth1\nOMP_NUM_THREADS=1\nHF_HUB_OFFLINE=1\n")
    environment = {"DS_ENV_FILE": str(tmp_path / "deepspeed_env")}
    typed = command(way, options(data, tmp_path / "run", shape), tmp_path)
    processes = [nodes.popen(node, line, environment) for node, line in typed]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)[-4000:]
    assert losses(tmp_path / "run") == pytest.approx(alone[shape], rel=1e-5 if shape == "pythia" else 1e-4)
