"""Whatever form a fine-tuned network comes in, it answers as the run does; what cannot answer is refused in a
sentence."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TinyRuns
from video_files import moving_frames, write_video
from weight_files import RunsCode, network

from VideoMAE.checkpoints.convert import main as convert
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.inference.config import NetworkFlags
from VideoMAE.inference.load import load_trained
from VideoMAE.inference.predictor import load_predictor
from VideoMAE.modeling_finetune import MODELS

TINY = NetworkFlags(input_size=32, num_frames=4, short_side_size=40)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "moving.mp4", moving_frames(30, width=80))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint-best.pth", weights_only=True)["model"]


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_every_form_of_a_run_s_weights_gives_its_answers(tiny_runs: TinyRuns, video: Path, tmp_path: Path) -> None:
    for run, flags in ((tiny_runs.vce, TINY), (tiny_runs.v2v, NetworkFlags(input_size=32, num_frames=4))):
        folder = tmp_path / run.name
        folder.mkdir()
        [expected] = load_predictor(run)(video)
        shutil.copy(run / "checkpoint-best.pth", folder / "moved.pth")
        assert load_predictor(folder / "moved.pth")(video) == [expected]  # it knows its run's settings itself
        assert load_predictor(run / "checkpoint-last.pth")(video) == [expected]
        for name, content in (("model", {"model": weights(run)}), ("module", {"module": weights(run)})):
            bare = saved(folder / f"{name}.pth", content)
            assert load_predictor(bare, network_flags=flags)(video) == [expected]
        shutil.copy(run / "config.json", folder / "config.json")  # as in a run's folder
        assert load_predictor(bare)(video) == [expected]
        assert convert([str(run / "checkpoint-best.pth"), str(folder / "huggingface")]) == 0
        assert load_predictor(folder / "huggingface")(video) == [expected]


def test_what_a_bare_file_does_not_say_is_assumed_and_said_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "VideoMAE.inference.load")
    file = saved(tmp_path / "bare.pth", {"module": network(img_size=224, all_frames=16).state_dict()})
    trained = load_trained(file)
    assert trained.task == "vce" and trained.emotions == EMOTIONS and trained.config == {}
    assert (trained.recipe.test_num_segment, trained.recipe.test_num_crop) == (2, 3)
    [line] = [record.getMessage() for record in caplog.records if record.name == "VideoMAE.inference.load"]
    assert line == (
        f"{file}: nothing says how it was trained, so these are assumed: --num_frames 16 --input_size 224 "
        "--sampling_rate 4 --loss bce"
    )


def test_flags_win_over_what_a_run_says(tiny_runs: TinyRuns) -> None:
    trained = load_trained(tiny_runs.vce, NetworkFlags(sampling_rate=7, loss="ce"), num_crops=1)
    recipe = trained.recipe
    assert (recipe.sampling_rate, recipe.loss, recipe.test_num_crop) == (7, "ce", 1)
    assert (recipe.num_frames, recipe.input_size, recipe.short_side_size, recipe.test_num_segment) == (4, 32, 40, 2)


def test_the_average_of_the_weights_is_what_a_run_that_keeps_one_tests(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    content = torch.load(tiny_runs.v2v / "checkpoint-last.pth", weights_only=True)
    average = {name: value + 1 for name, value in content["model"].items()}
    trained = load_trained(saved(tmp_path / "last.pth", {**content, "model_ema": average}))
    assert all(torch.equal(value, average[name]) for name, value in trained.model.state_dict().items())


def test_other_emotions_are_named_by_the_results_by_the_dataset_or_by_a_flag(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    run, names = tmp_path / "run", ["calm", "fear", "joy"]
    run.mkdir()
    config = json.loads((tiny_runs.vce / "config.json").read_text())
    config["data"]["data_path"] = str(tmp_path / "dataset")
    (run / "config.json").write_text(json.dumps(config))
    model = network(num_classes=3, all_frames=4)
    content = {"model": model.state_dict(), "config": config, "metrics": {}, "epoch": 0}
    saved(run / "checkpoint-best.pth", content)
    with pytest.raises(ValueError, match="a head of 3 outputs, which are neither .* name them by --emotions FILE"):
        load_trained(run)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/emotions.json").write_text(json.dumps(names[::-1]))
    assert load_trained(run).emotions == tuple(names[::-1])
    (run / "results.json").write_text(json.dumps({"emotions": names}))
    assert load_trained(run).emotions == tuple(names)
    file = tmp_path / "names.json"
    file.write_text(json.dumps(["a", "b", "c"]))
    assert load_trained(run, NetworkFlags(emotions=file)).emotions == ("a", "b", "c")
    for said, text in (("holds 1 names, .* has 3 outputs", '["a"]'), ("expected a list", "{}"), ("as JSON", "[")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"--emotions {file}: .*{said}"):
            load_trained(run, NetworkFlags(emotions=file))


def test_learned_positions_and_half_precision_are_read(tmp_path: Path) -> None:
    model = MODELS["vit_micro_patch16_224"](
        img_size=32, all_frames=4, num_classes=27, use_learnable_pos_emb=True
    ).eval()
    trained = load_trained(saved(tmp_path / "learned.pth", {"model": model.state_dict()}), TINY)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(trained.model(clip), model(clip))
    half = load_trained(saved(tmp_path / "half.pth", {"model": model.half().state_dict()}), TINY).model
    assert all(
        value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name].float())
        for name, value in half.state_dict().items()
    )


def test_what_cannot_answer_is_refused_in_one_sentence(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    whole = weights(tiny_runs.vce)
    headless = {name: value for name, value in whole.items() if not name.startswith("head.")}
    encoder = {f"encoder.{name}": value for name, value in headless.items()}
    cases: dict[str, tuple[Any, str]] = {
        "headless": ({"model": headless}, "weights without a head: they must be fine-tuned on VCE or V2V"),
        "pretrained": ({"model": encoder}, "pre-training weights without a head"),
        "lacking": ({"model": {k: v for k, v in whole.items() if k != "blocks.2.norm1.bias"}}, "1 missing weight:"),
        "nan": ({"model": {**whole, "fc_norm.bias": torch.full((128,), torch.nan)}}, "128 non-finite values"),
        "other": ({"model": {"conv.weight": torch.zeros(3), "head.weight": torch.zeros(27, 3)}}, "not a VideoMAE ViT"),
        "kinetics": ({"module": {**whole, "head.weight": torch.zeros(400, 128), "head.bias": torch.zeros(400)}},
                     "a head of 400 outputs, which are neither"),
        "code": (RunsCode(tmp_path / "ran"), "refused: the pickle contains"),
    }  # fmt: skip
    for name, (content, said) in cases.items():
        file = saved(tmp_path / f"{name}.pth", content)
        with pytest.raises(ValueError, match=said) as caught:
            load_trained(file, TINY)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "text.pth").write_text("<html>quota</html>")
    for path, said in (("text.pth", "a web page"), ("missing.pth", "no such checkpoint"), (".", "not a checkpoint")):
        with pytest.raises(ValueError, match=said):
            load_trained(tmp_path / path)


def test_flags_that_do_not_go_with_the_weights_are_refused(tiny_runs: TinyRuns) -> None:
    for flags, said in (
        (NetworkFlags(model="vit_base_patch16_224"), "128 wide and 4 deep, where --model vit_base_patch16_224 is 768"),
        (NetworkFlags(input_size=40), "--input_size 40 is not a multiple of the patch size 16"),
        (NetworkFlags(num_frames=5), "--num_frames 5 is not a multiple of --tubelet_size 2"),
        (NetworkFlags(input_size=48), "--short_side_size 40 is smaller than --input_size 48"),
        (NetworkFlags(sampling_rate=0), "--sampling_rate 0: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            load_trained(tiny_runs.vce, flags)
