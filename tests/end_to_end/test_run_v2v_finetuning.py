"""V2V from the command line: training, testing, any number of processes and either backend, every kind of bad input.

The videos are flat grey and the brighter one is preferred, which a tiny ViT learns in seconds.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import V2V, forked
from tiny_runs import TinyRuns
from v2v_dataset import TINY, TRAIN, write_dataset

from VideoMAE import run_v2v_finetuning
from VideoMAE.modeling_finetune import vit_micro_patch16_224
from VideoMAE.runtime import distributed

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("v2v"))


def run(data: Path, output: Path, *flags: str) -> dict[str, Any]:
    """Runs in this process and reads results.json."""
    try:
        run_v2v_finetuning.main(["--data_dir", str(data), "--results_path", str(output), *flags])
    finally:
        distributed.stop()
    return json.loads((output / "results.json").read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output / "steps.jsonl")]


def reason_to_stop(data: Path, output: Path, *flags: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(data, output, *flags)
    assert isinstance(stopped.value.code, str)
    return stopped.value.code


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    run(dataset, output, *TRAIN)
    return output


def test_training_learns_pairs_and_lists(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results["pair_accuracy"] >= 90
    assert results["list_accuracy"] >= 75
    assert results["mean_kendall_tau"] > 0.8
    counts = {name: results[name] for name in results if name.startswith("num_")}
    assert counts == {
        "num_ties": 0,
        "num_pairs": 14,
        "num_pairs_lost": 0,
        "num_ties_in_lists": 0,
        "num_lists": 4,
        "num_lists_lost": 0,
        "num_videos": 27,
        "num_unreadable": 0,
    }


def test_every_epoch_is_validated_on_held_out_pairs(trained: Path) -> None:
    log = lines(trained / "log.txt")
    assert len(log) == 5
    assert all(line["val_num_pairs"] == 3 and line["val_num_unreadable"] == 0 for line in log)
    best = torch.load(trained / "checkpoint-best.pth", weights_only=True)
    assert best["metrics"]["val_pair_accuracy"] == max(line["val_pair_accuracy"] for line in log)
    assert best["model"]["head.0.weight"].shape == (1, 128)


def test_results_follow_from_the_scores(dataset: Path, trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    scores = {line["id"]: line["score"] for line in lines(trained / "scores.jsonl")}
    pairs, lists = (
        json.loads((dataset / f"{name}_labels.json").read_text())["comparisons"] for name in ("test", "listwise")
    )
    assert len(scores) == 27
    assert results["pair_accuracy"] == 100 * np.mean([scores[better] > scores[worse] for worse, better in pairs])
    in_order = [sorted(entry, key=lambda key: scores[key]) == entry for entry in lists]
    assert results["list_accuracy"] == 100 * np.mean(in_order)


@pytest.mark.parametrize("batch_size", ["1", "5"])
def test_mode_eval_gives_the_same_results_from_the_checkpoint(
    dataset: Path, trained: Path, tmp_path: Path, batch_size: str
) -> None:
    flags = ["--mode", "eval", "--checkpoint", str(trained / "checkpoint-best.pth"), "--batch_size", batch_size]
    assert run(dataset, tmp_path, *flags, *TINY) == json.loads((trained / "results.json").read_text())
    run(dataset, tmp_path, *flags, *TINY, "--results_prefix", "again")
    before, after = lines(trained / "scores.jsonl"), lines(tmp_path / "again_scores.jsonl")
    assert [line["id"] for line in before] == [line["id"] for line in after]
    np.testing.assert_allclose([line["score"] for line in before], [line["score"] for line in after], atol=1e-5)


def test_testing_takes_the_network_and_its_clips_from_the_checkpoint(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    flags = ["--mode", "eval", "--checkpoint", str(trained / "checkpoint-best.pth"), "--device", "cpu"]
    flags += ["--num_workers", "0"]
    assert run(dataset, tmp_path / "eval", *flags) == json.loads((trained / "results.json").read_text())
    reason = reason_to_stop(dataset, tmp_path / "other", *flags, "--num_frames", "16")
    assert "--num_frames 16 contradicts" in reason and "which was trained with --num_frames 4" in reason


def test_a_checkpoint_of_vce_is_refused_as_one_of_another_task(
    dataset: Path, tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    flags = ["--mode", "eval", "--checkpoint", str(tiny_runs.vce / "checkpoint-best.pth"), *TINY]
    reason = reason_to_stop(dataset, tmp_path / "eval", *flags)
    assert "head.0.weight" in reason and "\n" not in reason


@pytest.mark.parametrize("backend", [[], ["--enable_deepspeed"]], ids=["ddp", "deepspeed"])
def test_two_processes_have_the_losses_and_results_of_one(
    dataset: Path, trained: Path, tmp_path: Path, backend: list[str]
) -> None:
    arguments = ["--data_dir", str(dataset), "--results_path", str(tmp_path / "run"), *TRAIN, "--batch_size", "2"]
    with forked([*arguments, *backend], said=tmp_path / "said", processes=2, program=V2V) as two:
        assert two.wait() == 0, two.said[-3000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(trained), rtol=0, atol=1e-5)
    assert results == json.loads((trained / "results.json").read_text())
    accuracies = [[line["val_pair_accuracy"] for line in lines(run / "log.txt")] for run in (trained, tmp_path / "run")]
    assert accuracies[0] == accuracies[1]


def test_accumulation_has_the_losses_of_one_batch(dataset: Path, trained: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path, *TRAIN, "--batch_size", "1", "--update_freq", "4")
    np.testing.assert_allclose(losses(tmp_path), losses(trained), rtol=0, atol=1e-5)


def test_a_resumed_run_has_the_losses_of_one_in_a_go(
    dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from VideoMAE.training.metric_logger import MetricLogger

    def interrupted(self: MetricLogger, epoch: int, values: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricLogger, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(dataset, tmp_path, *TRAIN)
    run(dataset, tmp_path, *TRAIN)
    assert losses(tmp_path) == losses(trained)


@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "hinge", "--margin", "2", "--model_ema", "--model_ema_decay", "0.8"],
        ["--opt", "sgd", "--lr", "0.01", "--layer_decay", "0.75", "--precision", "bf16", "--select_on", "test"],
        ["--crop", "center", "--augment", "exact", "--aa", "none", "--disable_eval_during_finetuning"],
    ],
    ids=lambda flags: flags[1],
)
def test_other_settings_run_to_the_end(dataset: Path, tmp_path: Path, flags: list[str]) -> None:
    results = run(dataset, tmp_path, *TRAIN, "--num_epochs", "1", *flags)
    assert 0 <= results["pair_accuracy"] <= 100
    log = lines(tmp_path / "log.txt")
    assert log[0].get("val_num_pairs") == (None if "--crop" in flags else 14 if "--select_on" in flags else 3)


def test_listwise_trains_on_lists(dataset: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists.json"
    pairs = json.loads((dataset / "train_labels.json").read_text())["comparisons"]
    longer = [*pairs[3:], json.loads((dataset / "listwise_labels.json").read_text())["comparisons"][2]]
    lists.write_text(json.dumps({"comparisons": longer}))
    flags = [*TRAIN, "--train_labels", str(lists), "--num_epochs", "2"]
    assert "comparison 34: has 4 video ids" in reason_to_stop(dataset, tmp_path / "pairs", *flags)
    results = run(dataset, tmp_path / "run", *flags, "--loss", "listwise")
    assert results["num_lists"] == 4
    assert len(losses(tmp_path / "run")) == 2 * 7


def test_a_vce_checkpoint_loses_its_head_and_says_so(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    emotions = vit_micro_patch16_224(img_size=32, all_frames=4, num_classes=27)
    torch.save({"model": emotions.state_dict()}, tmp_path / "vce.pth")
    start = ["--checkpoint", str(tmp_path / "vce.pth")]
    with caplog.at_level("INFO"):
        run(dataset, tmp_path / "run", *TRAIN, "--num_epochs", "1", "--lr", "0", *start)
    assert "dropped the head of another task (head.weight (27, 128), head.bias (27,))" in caplog.text
    tuned = torch.load(tmp_path / "run" / "checkpoint-best.pth", weights_only=True)["model"]
    torch.testing.assert_close(tuned["blocks.0.attn.qkv.weight"], emotions.blocks[0].attn.qkv.weight.data)
    refused = reason_to_stop(dataset, tmp_path / "eval", "--mode", "eval", *start, *TINY)
    assert "lacks 1 of the model's" in refused
    assert "head.0.weight" in refused


def test_unreadable_videos_lose_their_comparisons_by_name(
    dataset: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ("00001", "00048", "00063")
    data = write_dataset(tmp_path / "data", bad=bad)
    assert "but --max_bad_videos 0.01 allows 0: 00001" in reason_to_stop(data, tmp_path / "stopped", *TRAIN)
    flags = [*TRAIN, "--num_epochs", "1", "--max_bad_videos", "0.1", "--val_fraction", "0.3"]
    results = run(data, tmp_path / "run", *flags)
    assert set(results["unreadable"]) == {"00048", "00063"}
    assert (results["num_pairs_lost"], results["num_lists_lost"], results["num_unreadable"]) == (1, 1, 2)
    assert [set(entry) for entry in results["lost_pairs"]] == [{"00048", "00049"}]
    assert [set(entry) for entry in results["lost_lists"]] == [{"00063", "00064"}]
    scores = lines(tmp_path / "run" / "scores.jsonl")
    assert {line["id"] for line in scores if "unreadable" in line} == {"00048", "00063"}
    assert len(scores) == 27
    assert "with unreadable videos: 0000" in caplog.text


def test_contradictions_and_shared_videos_are_warned_of_with_counts(
    dataset: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("videos", "listwise_labels.json", "metadata.json"):
        (data / name).symlink_to(dataset / name)
    train, test = (json.loads((dataset / f"{n}_labels.json").read_text())["comparisons"] for n in ("train", "test"))
    (data / "train_labels.json").write_text(json.dumps({"comparisons": [*train, train[0][::-1]]}))
    (data / "test_labels.json").write_text(json.dumps({"comparisons": [*test, train[5]]}))
    run(data, tmp_path / "run", *TRAIN, "--num_epochs", "1")
    assert "train_labels.json: 1 pair in both orders" in caplog.text
    assert "2 videos in both train and test" in caplog.text


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--mode", "eval"], "needs --finetune FILE"),
        (["--batch_size", "500"], "training comparisons do not fill one total batch of 500"),
        (["--val_fraction", "0.01"], "leaves training or validation empty"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_that_make_no_sense_are_refused_in_a_sentence(
    dataset: Path, tmp_path: Path, flags: list[str], reason: str
) -> None:
    assert reason in reason_to_stop(dataset, tmp_path / "run", *TRAIN, *flags)
