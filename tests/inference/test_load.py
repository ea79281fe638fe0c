"""Every form of a checkpoint gives the predictions of its run; unusable ones are refused with a message."""

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

from VideoMAE.checkpoints.programs import convert
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.inference.config import NetworkFlags
from VideoMAE.inference.load import load_for_inference
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


def test_every_form_of_a_checkpoint_gives_the_same_predictions(
    tiny_runs: TinyRuns, video: Path, tmp_path: Path
) -> None:
    for run, flags in ((tiny_runs.vce, TINY), (tiny_runs.v2v, NetworkFlags(input_size=32, num_frames=4))):
        folder = tmp_path / run.name
        folder.mkdir()
        [expected] = load_predictor(run)(video)
        shutil.copy(run / "checkpoint-best.pth", folder / "moved.pth")
        assert load_predictor(folder / "moved.pth")(video) == [expected]  # contains its run's settings
        assert load_predictor(run / "checkpoint-last.pth")(video) == [expected]
        for name, content in (("model", {"model": weights(run)}), ("module", {"module": weights(run)})):
            bare = saved(folder / f"{name}.pth", content)
            assert load_predictor(bare, network_flags=flags)(video) == [expected]
        shutil.copy(run / "config.json", folder / "config.json")  # as in a run's folder
        assert load_predictor(bare)(video) == [expected]
        assert convert([str(run / "checkpoint-best.pth"), str(folder / "huggingface")]) == 0
        assert load_predictor(folder / "huggingface")(video) == [expected]


def test_the_defaults_used_for_a_bare_checkpoint_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "VideoMAE.inference.load")
    file = saved(tmp_path / "bare.pth", {"module": network(img_size=224, all_frames=16).state_dict()})
    loaded = load_for_inference(file)
    assert loaded.task == "vce" and loaded.emotions == EMOTIONS and loaded.config == {}
    assert (loaded.recipe.test_num_segment, loaded.recipe.test_num_crop) == (2, 3)
    [line] = [record.getMessage() for record in caplog.records if record.name == "VideoMAE.inference.load"]
    assert line == (
        f"{file}: no training settings found; using the defaults --num_frames 16 --input_size 224 "
        "--sampling_rate 4 --loss bce"
    )


def test_flags_override_the_settings_of_a_run(tiny_runs: TinyRuns) -> None:
    loaded = load_for_inference(tiny_runs.vce, NetworkFlags(sampling_rate=7, loss="ce"), num_crops=1)
    recipe = loaded.recipe
    assert (recipe.sampling_rate, recipe.loss, recipe.test_num_crop) == (7, "ce", 1)
    assert (recipe.num_frames, recipe.input_size, recipe.short_side_size, recipe.test_num_segment) == (4, 32, 40, 2)


def test_the_weight_average_is_loaded_if_there_is_one(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    content = torch.load(tiny_runs.v2v / "checkpoint-last.pth", weights_only=True)
    average = {name: value + 1 for name, value in content["model"].items()}
    loaded = load_for_inference(saved(tmp_path / "last.pth", {**content, "model_ema": average}))
    assert all(torch.equal(value, average[name]) for name, value in loaded.model.state_dict().items())


def test_names_of_other_emotions_come_from_a_flag_the_results_or_the_dataset(
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
    with pytest.raises(ValueError, match="the head has 3 outputs, .* pass their names by --emotions FILE"):
        load_for_inference(run)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/emotions.json").write_text(json.dumps(names[::-1]))
    assert load_for_inference(run).emotions == tuple(names[::-1])
    (run / "results.json").write_text(json.dumps({"emotions": names}))
    assert load_for_inference(run).emotions == tuple(names)
    file = tmp_path / "names.json"
    file.write_text(json.dumps(["a", "b", "c"]))
    assert load_for_inference(run, NetworkFlags(emotions=file)).emotions == ("a", "b", "c")
    for message, text in (("names: 1, outputs of .*: 3", '["a"]'), ("expected a list", "{}"), ("not valid JSON", "[")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"{file}: .*{message}"):
            load_for_inference(run, NetworkFlags(emotions=file))


def test_learned_positions_and_half_precision_are_loaded(tmp_path: Path) -> None:
    model = MODELS["vit_micro_patch16_224"](
        img_size=32, all_frames=4, num_classes=27, use_learnable_pos_emb=True
    ).eval()
    loaded = load_for_inference(saved(tmp_path / "learned.pth", {"model": model.state_dict()}), TINY)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(clip), model(clip))
    half = load_for_inference(saved(tmp_path / "half.pth", {"model": model.half().state_dict()}), TINY).model
    assert all(
        value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name].float())
        for name, value in half.state_dict().items()
    )


def test_unusable_checkpoints_are_refused_in_one_line(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    whole = weights(tiny_runs.vce)
    headless = {name: value for name, value in whole.items() if not name.startswith("head.")}
    encoder = {f"encoder.{name}": value for name, value in headless.items()}
    cases: dict[str, tuple[Any, str]] = {
        "headless": ({"model": headless}, "weights without a head; fine-tune them on VCE or V2V first"),
        "pretrained": ({"model": encoder}, "pre-trained weights without a head"),
        "lacking": ({"model": {k: v for k, v in whole.items() if k != "blocks.2.norm1.bias"}}, "1 missing weight:"),
        "nan": ({"model": {**whole, "fc_norm.bias": torch.full((128,), torch.nan)}}, "128 non-finite values"),
        "other": ({"model": {"conv.weight": torch.zeros(3), "head.weight": torch.zeros(27, 3)}}, "not a VideoMAE ViT"),
        "kinetics": (
            {"module": {**whole, "head.weight": torch.zeros(400, 128), "head.bias": torch.zeros(400)}},
            "the head has 400 outputs, expected 27 ",
        ),
        "code": (RunsCode(tmp_path / "ran"), "refused: the pickle contains"),
    }
    for name, (content, message) in cases.items():
        file = saved(tmp_path / f"{name}.pth", content)
        with pytest.raises(ValueError, match=message) as caught:
            load_for_inference(file, TINY)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "text.pth").write_text("<html>quota</html>")
    for path, message in (("text.pth", "a web page"), ("missing.pth", "no such checkpoint"), (".", "not a checkpoint")):
        with pytest.raises(ValueError, match=message):
            load_for_inference(tmp_path / path)


def test_flags_that_contradict_the_weights_are_refused(tiny_runs: TinyRuns) -> None:
    for flags, message in (
        (
            NetworkFlags(model="vit_base_patch16_224"),
            "width 128 and depth 4, but --model vit_base_patch16_224 has",
        ),
        (NetworkFlags(input_size=40), "--input_size 40 is not a multiple of the patch size 16"),
        (NetworkFlags(num_frames=5), "--num_frames 5 is not a multiple of --tubelet_size 2"),
        (NetworkFlags(input_size=48), "--short_side_size 40 is smaller than --input_size 48"),
        (NetworkFlags(sampling_rate=0), "--sampling_rate 0: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            load_for_inference(tiny_runs.vce, flags)
