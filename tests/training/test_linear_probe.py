"""--linear_probe from the command line: the network stays as it was, the head is trained, a run that is killed goes on,
and what comes out is an ordinary run's."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import free_port
from gates import Gate
from tiny_runs import quick_runs
from tolerance import nearly
from v2v_dataset import write_dataset
from vce_files import make_vce_folder

from VideoMAE import run_class_finetuning, run_v2v_finetuning
from VideoMAE.modeling_finetune import vit_micro_patch16_224
from VideoMAE.training import checkpoint, linear_probe
from VideoMAE.training.pretrained import load_pretrained

TINY = ["--model", "vit_micro_patch16_224", "--input_size", "32", "--num_workers", "0", "--device", "cpu"]
VCE = [*TINY, "--num_frames", "8", "--short_side_size", "32", "--batch_size", "4", "--epochs", "20", "--linear_probe"]
V2V = [*TINY, "--num_frames", "4", "--disable_tqdm", "1", "--weight_decay", "0.01", "--linear_probe"]
SIZE: dict[str, Any] = {"img_size": 32, "all_frames": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 6, num_frames=40)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training checkpoint: no fc_norm, no head."""
    torch.manual_seed(3)
    weights = vit_micro_patch16_224(**SIZE).state_dict()
    kept = {f"encoder.{name}": value for name, value in weights.items() if not name.startswith(("head.", "fc_norm."))}
    path = tmp_path_factory.mktemp("encoder") / "pretrained.pth"
    torch.save({"model": kept}, path)
    return path


def flags(dataset: Path, encoder: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--data_path", str(dataset), "--finetune", str(encoder), "--output_dir", str(output_dir), *VCE, *more]


def run(arguments: list[str], main: Callable[[list[str]], None] = run_class_finetuning.main) -> None:
    with quick_runs():
        main(arguments)


def refusal(arguments: list[str], main: Callable[[list[str]], None] = run_class_finetuning.main) -> str:
    with pytest.raises(SystemExit) as caught:
        run(arguments, main)
    assert isinstance(caught.value.code, str)
    return caught.value.code


def results(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "results.json").read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def probed(dataset: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("probed") / "run"
    run(flags(dataset, encoder, output_dir))
    return output_dir


def test_the_head_learns_and_everything_else_stays_as_it_was(probed: Path, encoder: Path) -> None:
    measured = results(probed)
    assert measured["acc1"] > measured["majority_guess"]["acc1"]
    assert measured["bce"] < measured["majority_guess"]["bce"]
    before, after = weights_of(encoder), weights_of(probed / checkpoint.BEST)
    for name, value in before.items():
        assert torch.equal(after.pop(name.removeprefix("encoder.")), value), name
    assert sorted(after) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert torch.equal(after["fc_norm.weight"], torch.ones(128))
    assert not after["fc_norm.bias"].any()


def test_a_probe_leaves_the_files_of_a_run_and_tells_of_every_epoch(probed: Path) -> None:
    names = {"checkpoint-best.pth", "config.json", "results.json", "predictions.jsonl", "log.txt", "features"}
    assert names <= {path.name for path in probed.iterdir()}
    assert not list(probed.rglob("*.tmp"))
    epochs = lines(probed / "log.txt")
    assert [line["epoch"] for line in epochs] == list(range(len(epochs)))
    losses = [line["train_loss"] + line["penalty"] for line in epochs]
    assert losses == sorted(losses, reverse=True)
    saved = torch.load(probed / checkpoint.BEST, weights_only=True)
    scores = [line["val_acc1"] for line in epochs]
    assert saved["metrics"] == {key: value for key, value in epochs[saved["epoch"]].items() if key != "epoch"}
    assert saved["epoch"] == max(i for i, score in enumerate(scores) if score == max(scores))
    assert saved["config"]["optim"]["linear_probe"] is True


def test_the_checkpoint_alone_gives_the_same_predictions(probed: Path, dataset: Path, tmp_path: Path) -> None:
    arguments = flags(dataset, probed / checkpoint.BEST, tmp_path / "test", "--eval")
    arguments.remove("--linear_probe")
    run(arguments)
    assert (tmp_path / "test/predictions.jsonl").read_text() == (probed / "predictions.jsonl").read_text()


def test_the_saved_head_gives_the_validation_metrics_from_the_cached_features(probed: Path, dataset: Path) -> None:
    model = vit_micro_patch16_224(**SIZE)
    load_pretrained(model, probed / checkpoint.BEST, must_be_whole=True)
    index = lines(probed / "features/validation/index.jsonl")
    rows = np.load(probed / "features/validation/features.npy")[[line["row"] for line in index]]
    features, ids = torch.from_numpy(rows), [line["id"] for line in index]
    labels = json.loads((dataset / "train_labels.json").read_text())
    targets = torch.tensor([list(labels[key]["emotions"].values()) for key in ids])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model.head(features), targets)
    saved = torch.load(probed / checkpoint.BEST, weights_only=True)
    assert loss.item() == pytest.approx(saved["metrics"]["val_bce"], abs=1e-6)


def test_a_second_call_reads_no_training_video_and_ends_the_same(
    probed: Path, dataset: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(probed, copy)
    read: list[int] = []
    monkeypatch.setattr(linear_probe, "evaluate", lambda *args, **kwargs: read.append(1))
    run(flags(dataset, encoder, copy))
    assert not read
    assert results(copy) == results(probed)


def child(arguments: list[str], environment: dict[str, str], videos_per_block: int, gate: Gate | None) -> None:
    os.environ.update(environment)
    if gate is not None:
        gate.install()
    linear_probe.VIDEOS_PER_BLOCK = videos_per_block
    run(arguments)


def forked(
    arguments: list[str], *, processes: int = 1, videos_per_block: int = 64, gate: Gate | None = None
) -> list[Any]:
    """The program in processes of its own, with what this one has imported."""
    port, started = free_port(), []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
        process = multiprocessing.get_context("fork").Process(
            target=child, args=(arguments, environment if processes > 1 else {}, videos_per_block, gate)
        )
        process.start()
        started.append(process)
    return started


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_a_probe_that_is_ended_goes_on_with_the_rest_and_ends_as_an_unbroken_one(
    probed: Path, dataset: Path, encoder: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    killed, gate = (
        tmp_path / "run",
        Gate(tmp_path / "gate", "VideoMAE.training.linear_probe:LinearProbe._store", calls=3),
    )
    (process,) = forked(flags(dataset, encoder, killed), videos_per_block=4, gate=gate)
    try:
        gate.wait(process)
        os.kill(process.pid, number)
        gate.open()
        process.join()
        assert process.exitcode == status
    finally:
        process.kill()
    assert not (killed / checkpoint.BEST).exists()
    before = lines(killed / "features/training/index.jsonl")
    assert 0 < len(before) < 18
    run(flags(dataset, encoder, killed))
    after = lines(killed / "features/training/index.jsonl")
    assert after[: len(before)] == before
    assert results(killed) == nearly(results(probed), abs=1e-4)
    assert lines(killed / "predictions.jsonl") == nearly(lines(probed / "predictions.jsonl"), abs=1e-4)
    assert sorted(line["id"] for line in after) == [f"{video:05d}" for video in range(18)]


def test_two_processes_share_the_videos_and_end_as_one_does(
    probed: Path, dataset: Path, encoder: Path, tmp_path: Path
) -> None:
    started = forked(flags(dataset, encoder, tmp_path / "run"), processes=2)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    measured, expected = results(tmp_path / "run"), results(probed)
    assert measured["acc1"] == expected["acc1"]
    assert measured["bce"] == pytest.approx(expected["bce"], abs=1e-4)


def test_features_of_other_weights_or_damaged_ones_are_refused(
    probed: Path, dataset: Path, encoder: Path, tmp_path: Path
) -> None:
    copy, changed = tmp_path / "run", tmp_path / "pretrained.pth"
    shutil.copyfile(encoder, changed)
    arguments = flags(dataset, changed, copy)
    run(arguments)
    matrix = copy / "features/training/features.npy"
    content = matrix.read_bytes()
    for damaged in (b"", content[:100], content[:-100]):
        matrix.write_bytes(damaged)
        assert f"{matrix}: damaged" in refusal(arguments)
        assert matrix.read_bytes() == damaged
    weights = weights_of(encoder)
    weights["encoder.blocks.0.norm1.bias"] += 1
    torch.save({"model": weights}, changed)
    assert "contains features with other settings (checksum of the weights: " in refusal(arguments)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--mixup", "0.8"],
            "--linear_probe cannot be combined with --mixup 0.8: the head is trained on",
        ),
        (["--num_sample", "2"], "--linear_probe cannot be combined with --num_sample 2: features are computed from"),
        (["--model_ema"], "--linear_probe cannot be combined with --model_ema True: the head is solved"),
        (["--eval"], "--linear_probe cannot be combined with --eval True: --eval does not train"),
    ],
)
def test_flags_that_make_no_sense_with_it_are_refused(
    dataset: Path, encoder: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    assert said in refusal(flags(dataset, encoder, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_a_training_video_that_fails_after_the_check_counts_against_the_bad_ones(encoder: Path, tmp_path: Path) -> None:
    data = make_vce_folder(tmp_path / "vce_dataset", 12, 2, num_frames=40)
    damaged = data / "videos/00003.mp4"
    content = damaged.read_bytes()
    start = content.index(b"mdat") + 4
    end = max(content.find(b"moov"), start + 200) if content.find(b"moov") > start else len(content)
    middle = (start + end) // 2
    damaged.write_bytes(content[:middle] + bytes(end - middle) + content[end:])
    said = refusal(flags(data, encoder, tmp_path / "run"))
    assert "unreadable training videos: 1, more than --max_bad_videos allows: 00003: " in said
    run(flags(data, encoder, tmp_path / "run", "--max_bad_videos", "0.2"))
    ids = [line["id"] for line in lines(tmp_path / "run/features/training/index.jsonl")]
    assert "00003" not in ids
    assert len(ids) == 9


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("v2v"))


@pytest.mark.parametrize("loss", ["logistic", "listwise"])
def test_preferences_are_learned_from_frozen_features_and_deepspeed_is_ignored(
    preferences: Path, encoder: Path, tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--data_dir", str(preferences), "--finetune", str(encoder), "--results_path", str(tmp_path / "run")]
    run([*arguments, *V2V, "--loss", loss, "--enable_deepspeed"], run_v2v_finetuning.main)
    assert "--enable_deepspeed is ignored" in caplog.text
    measured = results(tmp_path / "run")
    assert measured["pair_accuracy"] > 80
    after = weights_of(tmp_path / "run" / checkpoint.BEST)
    assert all(torch.equal(after[name[8:]], value) for name, value in weights_of(encoder).items())
    assert after["head.0.weight"].shape == (1, 128)
    scores = {line["id"]: line["score"] for line in lines(tmp_path / "run/scores.jsonl")}
    assert len(scores) == measured["num_videos"]
