"""What all tests share: the repository and its data_prep on the path, the golden values, and a Slurm."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from slurm_cluster import Cluster, why_not

REPOSITORY = Path(__file__).resolve().parents[1]

if TYPE_CHECKING:
    from tiny_runs import TinyRuns

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what ends in "&", and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # as the golden values were made; on small tensors it is faster too

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="module")
def own_process_settings() -> Iterator[None]:
    """Programs that run in this process set environment variables and silence loggers, for themselves."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in ("", "VideoMAE.training.pretrained")}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Loads a file of tests/golden: a .json as plain values, an .npz as arrays by name."""

    def load(name: str) -> Any:
        path = GOLDEN / name
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with np.load(path) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A tiny run of VCE and one of V2V, not to be written into; a test that changes one makes its own."""
    from tiny_runs import TinyRuns, make_v2v_run, make_vce_run  # only here: most tests need no run program

    folder = tmp_path_factory.mktemp("tiny_runs")
    return TinyRuns(make_vce_run(folder), make_v2v_run(folder))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real Slurm of two nodes on this machine. Where none can run, its tests skip; under CI=true they fail."""
    reason = why_not()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"CI needs Slurm: {reason}")
    if reason is not None:
        pytest.skip(f"no Slurm: {reason}")
    with Cluster() as cluster:
        yield cluster
