"""Fine-tuning on VCE from end to end, on real files: resuming, world size, testing, recipes, and what bad input
does."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import forked
from gates import STEP, Gate
from vce_files import make_vce_folder

from VideoMAE.data.vce import EMOTIONS
from VideoMAE.modeling_finetune import vit_micro_patch16_224
from VideoMAE.run_class_finetuning import main

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = ["--model", "vit_micro_patch16_224", "--num_frames", "8", "--input_size", "32", "--short_side_size", "32"]
FLAGS = [
    *MODEL,
    *shlex.split("""
        --aa none --epochs 3 --warmup_epochs 1 --lr 0.03 --layer_decay 1 --drop_path 0 --init_scale 1 --batch_size 4
        --num_workers 0 --save_ckpt_freq 1 --device cpu
    """),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 7)


def flags(dataset: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--data_path", str(dataset), "--output_dir", str(output_dir), *FLAGS, *more]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "results.json").read_text())


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in lines(output_dir / "steps.jsonl")]


def launch(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "VideoMAE.runtime.launch", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*command, "-m", "VideoMAE.run_class_finetuning", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def refusal(arguments: list[str]) -> str:
    """The sentence that a run which must not start ends with."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    message = caught.value.code
    assert isinstance(message, str), message
    assert message.startswith("error: "), message
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on one process; tests only read it."""
    output_dir = tmp_path_factory.mktemp("unbroken") / "run"
    main(flags(dataset, output_dir))
    return output_dir


def test_a_run_learns_and_beats_the_majority_guess(unbroken: Path) -> None:
    epochs = lines(unbroken / "log.txt")
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    assert epochs[-1]["train_loss"] < 0.9 * epochs[0]["train_loss"]
    assert results(unbroken)["acc1"] > results(unbroken)["majority_guess"]["acc1"]


def test_a_run_leaves_every_file_it_promises(unbroken: Path) -> None:
    present = {path.name for path in unbroken.iterdir()}
    assert {
        "checkpoint-best.pth",
        "checkpoint-last.pth",
        "checkpoint-0.pth",
        "checkpoint-1.pth",
        "checkpoint-2.pth",
        "config.json",
        "results.json",
        "predictions.jsonl",
        "log.txt",
        "steps.jsonl",
        "curves.png",
        "tensorboard",
    } <= present
    assert not [name for name in present if name.endswith(".tmp")]
    assert next((unbroken / "tensorboard").iterdir()).stat().st_size > 500


def test_results_hold_every_metric_and_both_averages(unbroken: Path) -> None:
    measured = results(unbroken)
    names = {"acc1", "acc3", "acc5", "predicted_in_true_top3", "bce", "mean_absolute_error", "mean_correlation"}
    assert names <= {key for key, value in measured.items() if isinstance(value, float)}
    assert (measured["num_videos"], measured["num_unreadable"]) == (7, 0)
    assert measured["average_of_logits"]["acc1"] == measured["acc1"]
    assert set(measured["average_of_softmax"]) == {"acc1", "acc3", "acc5", "predicted_in_true_top3"}


def test_predictions_name_every_test_video_once_and_agree_with_the_results(unbroken: Path, dataset: Path) -> None:
    labels = json.loads((dataset / "test_labels.json").read_text())
    predictions = lines(unbroken / "predictions.jsonl")
    assert [line["id"] for line in predictions] == list(labels)
    hits = [line["predicted_top3"][0] == labels[line["id"]]["topK"][0] for line in predictions]
    assert 100 * np.mean(hits) == pytest.approx(results(unbroken)["acc1"])
    for line in predictions:
        assert line["true_top3"] == labels[line["id"]]["topK"]
        assert np.shape(line["view_logits"]) == (6, 27)
        mean_logits = np.mean(line["view_logits"], axis=0)
        expected = dict(zip(EMOTIONS, 1 / (1 + np.exp(-mean_logits)), strict=True))
        assert line["predicted"] == pytest.approx(expected, abs=2e-5)


def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_to_the_numbers_of_an_unbroken_one(
    dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "run"
    steps_per_epoch = len(lines(unbroken / "steps.jsonl")) // 3
    gate = Gate(tmp_path / "gate", STEP, calls=steps_per_epoch + 2)
    with forked(flags(dataset, output_dir), said=tmp_path / "said", gates=[gate]) as process:
        process.wait_at(gate)
        process.kill()
    log = output_dir / "log.txt"
    assert len(lines(log)) == 1
    main(flags(dataset, output_dir))
    assert lines(output_dir / "steps.jsonl") == lines(unbroken / "steps.jsonl")
    assert lines(log) == lines(unbroken / "log.txt")
    assert results(output_dir) == results(unbroken)


def test_resume_goes_on_from_the_checkpoint_it_is_given(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "run"
    shutil.copytree(unbroken, output_dir)
    settings = json.loads((output_dir / "config.json").read_text())
    assert settings["run"]["output_dir"] == str(unbroken)
    main(flags(dataset, unbroken, "--resume", str(unbroken / "checkpoint-0.pth")))
    assert lines(unbroken / "steps.jsonl") == lines(output_dir / "steps.jsonl")
    assert results(unbroken) == results(output_dir)


def test_testing_a_checkpoint_gives_the_results_of_its_run(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    main(flags(dataset, tmp_path / "eval", "--eval", "--finetune", str(unbroken / "checkpoint-best.pth")))
    assert results(tmp_path / "eval") == results(unbroken)
    assert (tmp_path / "eval/predictions.jsonl").read_text() == (unbroken / "predictions.jsonl").read_text()
    assert not (tmp_path / "eval/log.txt").exists()


def test_testing_takes_the_network_and_its_clips_from_the_checkpoint(
    dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    test = ["--data_path", str(dataset), "--device", "cpu", "--num_workers", "0", "--eval", "--output_dir"]
    main([*test, str(tmp_path / "eval"), "--finetune", str(unbroken / "checkpoint-best.pth")])
    assert results(tmp_path / "eval") == results(unbroken)
    settings = json.loads((tmp_path / "eval/config.json").read_text())
    assert (settings["model"]["model"], settings["data"]["num_frames"]) == ("vit_micro_patch16_224", 8)
    content = torch.load(unbroken / "checkpoint-best.pth", weights_only=True)
    (tmp_path / "beside").mkdir()
    torch.save({"model": content["model"]}, tmp_path / "beside/weights.pth")
    shutil.copy(unbroken / "config.json", tmp_path / "beside")
    main([*test, str(tmp_path / "eval2"), "--finetune", str(tmp_path / "beside/weights.pth")])
    assert results(tmp_path / "eval2") == results(unbroken)
    (tmp_path / "beside/config.json").unlink()
    message = refusal([*test, str(tmp_path / "eval3"), "--finetune", str(tmp_path / "beside/weights.pth")])
    assert "choose the --model of the checkpoint" in message


def test_an_unusable_configuration_of_the_tested_checkpoint_is_named(
    dataset: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(unbroken / "checkpoint-best.pth", weights_only=True)
    weights = tmp_path / "weights.pth"
    test = ["--data_path", str(dataset), "--device", "cpu", "--eval", "--finetune", str(weights)]
    test += ["--output_dir", str(tmp_path / "eval")]
    for name, value in (("model", "resnet50"), ("model", "--help")):
        content["config"]["model"][name] = value
        torch.save(content, weights)
        message = refusal(test)
        assert message.startswith(f"error: {weights}: its configuration has values that are not valid flags")
        assert f"--{name} {value}" in message
    torch.save({"model": content["model"]}, weights)
    for text, reason in (("", "the file is empty"), ('{"data": ', "not valid JSON")):
        (tmp_path / "config.json").write_text(text)
        message = refusal(test)
        assert message.startswith(f"error: {tmp_path / 'config.json'}: {reason}")
        assert message.endswith("restore or delete it")
    assert "usage" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("given", "trained_with"),
    [
        ("--input_size 224", "--input_size 32"),
        ("--num_frames 16", "--num_frames 8"),
        ("--model vit_base_patch16_224", "--model vit_micro_patch16_224"),
        ("--tubelet_size 4", "--tubelet_size 2"),
        ("--no_use_mean_pooling", "--use_mean_pooling"),
    ],
)
def test_a_flag_that_contradicts_the_tested_checkpoint_is_named(
    dataset: Path, unbroken: Path, tmp_path: Path, given: str, trained_with: str
) -> None:
    best, more = unbroken / "checkpoint-best.pth", ["--short_side_size", "224", *given.split()]
    message = refusal(flags(dataset, tmp_path / "eval", "--eval", "--finetune", str(best), *more))
    assert message == f"error: {given} contradicts {best}, which was trained with {trained_with}; remove the flag"
    assert not (tmp_path / "eval").exists()


def test_two_deepspeed_processes_have_the_losses_and_results_of_one_ddp_process(
    dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    done = launch(*flags(dataset, tmp_path / "run", "--batch_size", "2", "--enable_deepspeed", "--num_workers", "1"))
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(unbroken), rtol=0, atol=1e-5)
    ours, theirs = results(tmp_path / "run"), results(unbroken)
    assert ours["num_videos"] == 7
    for name in ("acc1", "acc3", "acc5", "predicted_in_true_top3"):
        assert ours[name] == theirs[name]
    assert ours["bce"] == pytest.approx(theirs["bce"], abs=1e-4)
    ids = [line["id"] for line in lines(tmp_path / "run/predictions.jsonl")]
    assert ids == [line["id"] for line in lines(unbroken / "predictions.jsonl")]
    said = done.stderr
    assert "total batch size 4 (batch_size 2 x update_freq 1 x 2 processes), base lr 0.03, scaled lr 0.000469" in said
    assert (
        "differs from the recipe of --loss bce: total batch size 4 (recipe: 8), base lr 0.03 (recipe: 0.0005)" in said
    )


def test_accumulation_has_the_losses_of_a_large_batch(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    main(flags(dataset, tmp_path / "run", "--batch_size", "2", "--update_freq", "2"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(unbroken), rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", ["bce", "ce", "soft_ce", "mse"])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixup_and_cutmix_train_with_every_loss(dataset: Path, tmp_path: Path, loss: str, mode: str) -> None:
    mixing = ["--mixup", "0.8", "--cutmix", "1.0", "--mixup_mode", mode]
    quick = ["--epochs", "1", "--test_num_segment", "1", "--test_num_crop", "1", "--no_save_ckpt"]
    main(flags(dataset, tmp_path / "run", "--loss", loss, *mixing, *quick))
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert (results(tmp_path / "run")["bce"] is None) == (loss in ("ce", "soft_ce"))


def test_every_other_switch_works_at_once(dataset: Path, tmp_path: Path) -> None:
    switches = shlex.split("""
        --model_ema --model_ema_decay 0.5 --model_ema_force_cpu --use_checkpoint --clip_grad 1 --precision bf16
        --num_sample 2 --drop 0.1 --attn_drop_rate 0.1 --drop_path 0.1 --fc_drop_rate 0.1 --weight_decay_end 0.1
        --train_fps None --test_average softmax --opt sgd --aa rand-m7-n4-mstd0.5-inc1 --train_on_all --no_dist_eval
        --epochs 2
    """)
    main(flags(dataset, tmp_path / "run", *switches))
    best = torch.load(tmp_path / "run/checkpoint-best.pth", weights_only=True)
    content = torch.load(tmp_path / f"run/checkpoint-{best['epoch']}.pth", weights_only=True)
    assert any(not torch.equal(content["model"][name], content["model_ema"][name]) for name in content["model"])
    assert best["model"].keys() == content["model_ema"].keys()
    assert all(torch.equal(best["model"][name], value) for name, value in content["model_ema"].items())
    main(flags(dataset, tmp_path / "run", *switches))


def test_the_classes_recipe_trains_on_csv_lists(dataset: Path, tmp_path: Path) -> None:
    adapter = [sys.executable, "data_prep/vce_to_videomae_dataset.py", "-d", str(dataset), "-o", str(tmp_path / "csv")]
    subprocess.run([*adapter, "--val_samples", "4"], cwd=REPOSITORY, check=True, capture_output=True)
    recipe = ["--label_path", str(tmp_path / "csv"), "--loss", "ce", "--train_fps", "None", "--epochs", "1"]
    main(flags(dataset, tmp_path / "run", *recipe))
    classes = [line.rpartition(" ") for line in (tmp_path / "csv/test.csv").read_text().splitlines()]
    expected = {Path(path).stem: EMOTIONS[int(label)] for path, _, label in classes}
    guesses = {line["id"]: line["predicted_top3"] for line in lines(tmp_path / "run/predictions.jsonl")}
    assert guesses.keys() == expected.keys()
    measured = results(tmp_path / "run")
    assert measured["acc1"] == pytest.approx(100 * np.mean([guesses[key][0] == expected[key] for key in expected]))
    assert measured["acc3"] == pytest.approx(100 * np.mean([expected[key] in guesses[key] for key in expected]))
    assert measured["bce"] is measured["predicted_in_true_top3"] is None


def test_fine_tuning_starts_from_a_pretraining_checkpoint(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = vit_micro_patch16_224(all_frames=8, img_size=32).state_dict()
    encoder = {f"encoder.{name}": value for name, value in state.items() if not name.startswith(("fc_norm", "head"))}
    torch.save({"model": {**encoder, "mask_token": torch.zeros(1, 1, 8)}}, tmp_path / "pretrain.pth")
    with caplog.at_level("INFO"):
        main(flags(dataset, tmp_path / "run", "--finetune", str(tmp_path / "pretrain.pth"), "--epochs", "1"))
    assert "ignored mask_token; initialized fc_norm.weight, fc_norm.bias, head.weight, head.bias" in caplog.text


# Unreadable videos


def test_unreadable_test_videos_are_counted_and_named_and_never_replaced(tmp_path: Path) -> None:
    data = make_vce_folder(tmp_path / "data", 8, 5, unreadable=("50001", "50003"))
    main(flags(data, tmp_path / "run", "--epochs", "1"))
    measured = results(tmp_path / "run")
    assert (measured["num_videos"], measured["num_unreadable"]) == (5, 2)
    assert set(measured["unreadable"]) == {"50001", "50003"}
    predictions = {line["id"]: line for line in lines(tmp_path / "run/predictions.jsonl")}
    assert sorted(predictions) == ["50000", "50001", "50002", "50003", "50004"]
    assert "empty" in predictions["50001"]["unreadable"]


def test_too_many_unreadable_training_videos_stop_the_run_with_every_name(tmp_path: Path) -> None:
    data = make_vce_folder(tmp_path / "data", 20, 2, unreadable=("00002", "00005"))
    message = refusal(flags(data, tmp_path / "run"))
    assert "unreadable training videos: 2 of 18, but --max_bad_videos 0.01 allows 0" in message
    assert "00002: " in message
    assert "00005: " in message
    main(flags(data, tmp_path / "run", "--max_bad_videos", "0.2", "--epochs", "3"))


# Output folders


def test_a_folder_of_another_configuration_is_refused_and_untouched(dataset: Path, unbroken: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    message = refusal(flags(dataset, unbroken, "--lr", "0.1", "--seed", "5"))
    assert "another configuration (--lr: 0.03 there, 0.1 here; --seed: 0 there, 5 here)" in message
    assert "already contains this run" in refusal(flags(dataset, unbroken, "--no_auto_resume"))
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def test_a_folder_that_is_no_run_is_refused_and_untouched(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert f"{tmp_path}: not empty and not the output folder of a run" in refusal(flags(dataset, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# Bad flags and files


def test_eval_needs_a_checkpoint(dataset: Path, tmp_path: Path) -> None:
    assert "--eval needs --finetune" in refusal(flags(dataset, tmp_path / "run", "--eval"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--nb_classes", "400"], "vce_dataset has 27 emotions"),
        (["--finetune", "absent.pth"], "absent.pth: no such checkpoint"),
        (["--batch_size", "64"], "18 training videos do not fill one total batch of 64"),
        (["--warmup_epochs", "9"], "the warm-up"),
        (["--opt", "adamwww"], "--opt adamwww"),
        (["--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["--zero_stage", "1"], "--zero_stage 1 needs --enable_deepspeed"),
        (["--aa", "rand-x9"], "--aa"),
        (["--input_size", "40"], "--input_size 40"),
        (["--val_fraction", "0"], "--val_fraction 0"),
        (["--save_ckpt_freq", "0"], "--save_ckpt_freq 0: must be at least 1"),
        (["--drop_path", "1.5"], "--drop_path 1.5: must be in [0, 1]"),
        (["--min_crop_area", "2"], "--min_crop_area 2.0: must be in (0, 1]"),
        (["--short_side_size", "24"], "--short_side_size 24 is smaller than --input_size 32"),
        (["--start_epoch", "3"], "--start_epoch 3 is not below --epochs 3"),
        (
            ["--mixup", "1", "--mixup_mode", "pair", "--batch_size", "3"],
            "--mixup_mode pair needs an even number of clips per batch, but --batch_size x --num_sample is 3",
        ),
        (["--train_fps", "30", "--num_frames", "160"], "none of the 18 training videos is readable and long enough"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(
    dataset: Path, tmp_path: Path, more: list[str], expected: str
) -> None:
    assert expected in refusal(flags(dataset, tmp_path / "run", *more))


def test_a_missing_dataset_is_one_sentence_on_every_number_of_processes(tmp_path: Path) -> None:
    done = launch(*flags(tmp_path / "nowhere", tmp_path / "run"))
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.strip()]
    expected = f"error: {tmp_path}/nowhere/train_labels.json: no such file; is --data_path the folder of the dataset?"
    assert said == [expected]


def test_a_start_that_failed_does_not_claim_its_folder(dataset: Path, tmp_path: Path) -> None:
    refusal(flags(dataset, tmp_path / "run", "--finetune", "absent.pth"))
    refusal(flags(dataset, tmp_path / "run", "--batch_size", "64"))
    main(flags(dataset, tmp_path / "run", "--epochs", "2"))
    assert (tmp_path / "run/results.json").exists()


# One step per epoch: the first has learning rate 0, the second one that no network survives.
WILD = ["--lr", "1e12", "--batch_size", "18", "--warmup_epochs", "2", "--epochs", "5", "--opt", "sgd"]


@pytest.mark.parametrize("more", [[], ["--disable_eval_during_finetuning"]], ids=["validating", "not validating"])
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    dataset: Path, tmp_path: Path, more: list[str]
) -> None:
    message = refusal(flags(dataset, tmp_path / "run", *WILD, *more))
    assert "on the videos 000" in message or "in validation are not finite" in message
    last = tmp_path / "run/checkpoint-last.pth"
    assert f"the last good checkpoint is {last}" in message
    content = torch.load(last, weights_only=True)
    assert all(torch.isfinite(value).all() for value in content["model"].values())
    assert "NaN" not in (tmp_path / "run/log.txt").read_text()
    assert not (tmp_path / "run/results.json").exists()
    if not more:
        assert content["epoch"] == 0
        assert all(value.abs().max() < 100 for value in content["model"].values())


@pytest.mark.parametrize("stage", ["1", "2"])
def test_zero_stages_train_and_resume_to_the_losses_of_plain_ddp(
    dataset: Path, unbroken: Path, tmp_path: Path, stage: str
) -> None:
    def train(*more: str) -> list[dict[str, Any]]:
        zero = ["--batch_size", "2", "--enable_deepspeed", "--zero_stage", stage, *more]
        with forked(flags(dataset, tmp_path / "run", *zero), said=tmp_path / "said", processes=2) as run:
            assert run.wait() == 0, run.said[-3000:]
        return lines(tmp_path / "run/steps.jsonl")

    steps = train()
    np.testing.assert_allclose([line["loss"] for line in steps], losses(unbroken), rtol=0, atol=1e-5)
    assert all(line["grad_norm"] > 0 for line in steps)
    assert train("--resume", str(tmp_path / "run/checkpoint-1.pth")) == steps


def test_a_run_of_another_total_batch_is_not_resumed(dataset: Path, unbroken: Path) -> None:
    message = refusal(flags(dataset, unbroken, "--batch_size", "2"))
    assert "belongs to a run with total batch size 4, this run has 2" in message


def test_a_run_whose_folder_was_moved_goes_on(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "moved")
    main(flags(dataset, tmp_path / "moved"))
    assert results(tmp_path / "moved") == results(unbroken)


def test_a_damaged_last_checkpoint_is_passed_over(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    last = unbroken / "checkpoint-last.pth"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    expected = results(unbroken)
    main(flags(dataset, unbroken))
    assert results(unbroken) == expected
    last.write_bytes(whole)


def test_the_entry_point_runs_as_module_and_as_file_from_any_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    module = [sys.executable, "-m", "VideoMAE.run_class_finetuning", "--help"]
    file = [sys.executable, str(REPOSITORY / "VideoMAE/run_class_finetuning.py"), "--help"]
    for command, env in ((module, environment), (file, dict(os.environ))):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--data_path" in done.stdout
