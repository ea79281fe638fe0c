"""Weights go to transformers and back bit for bit and predict the same there; DeepSpeed's parts become one file; what
could run code, is damaged or has no counterpart is refused, and nothing is written."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, VideoClassificationPipeline, VideoMAEConfig, VideoMAEForVideoClassification
from video_files import write_video
from weight_files import (
    MODEL,
    REPOSITORY,
    SIZE,
    RunsCode,
    equal,
    network,
    our_checkpoint,
    pretraining_network,
    v2v_network,
)

from VideoMAE.augment.video_transforms import ValidationTransform
from VideoMAE.checkpoints.huggingface_names import to_huggingface, to_ours
from VideoMAE.checkpoints.programs import convert as main
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.modeling_finetune import MODELS, VisionTransformer
from VideoMAE.training.pretrained import load_pretrained
from VideoMAE.video.reader import Video

NETWORKS: dict[str, Callable[[], VisionTransformer]] = {
    "vce": network,
    "v2v": v2v_network,
    "first token": lambda: network(use_mean_pooling=False),
    "no biases": lambda: network(qkv_bias=False),
    "half": lambda: network().half(),
}


def weights_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["model"]


def converted(*arguments: Any) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_ours_to_transformers_and_back_is_the_same_bits_and_keeps_epoch_metrics_and_config(
    tmp_path: Path, name: str
) -> None:
    model = NETWORKS[name]()
    ours = our_checkpoint(tmp_path / "checkpoint-best.pth", model)
    converted(ours, tmp_path / "folder")
    _, info = VideoMAEForVideoClassification.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    converted(tmp_path / "folder", tmp_path / "back.pth")
    before, after = torch.load(ours, weights_only=True), torch.load(tmp_path / "back.pth", weights_only=True)
    assert equal(after["model"], model.state_dict())
    assert {key: after[key] for key in ("epoch", "metrics", "config")} == {
        key: before[key] for key in ("epoch", "metrics", "config")
    }


@pytest.mark.parametrize("name", ["vce", "v2v", "first token", "no biases"])
def test_the_folder_computes_what_our_network_computes(tmp_path: Path, name: str) -> None:
    model = NETWORKS[name]()
    converted(our_checkpoint(tmp_path / "best.pth", model), tmp_path / "folder")
    peer = VideoMAEForVideoClassification.from_pretrained(tmp_path / "folder").eval()
    if peer.fc_norm is not None:
        assert peer.fc_norm.eps == 1e-5  # transformers' own, which no configuration changes; ours is 1e-6
        peer.fc_norm.eps = 1e-6
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(peer(clip.transpose(1, 2)).logits, model(clip), rtol=0, atol=1e-5)


def test_transformers_own_folder_becomes_a_checkpoint_that_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(2)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    config = VideoMAEConfig(image_size=32, num_frames=8, num_labels=6, layer_norm_eps=1e-6, **sizes)
    peer = VideoMAEForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer.fc_norm.eps = 1e-6
    peer.save_pretrained(tmp_path / "theirs")
    converted(tmp_path / "theirs", tmp_path / "ours.pth", "--to", "published")
    assert torch.load(tmp_path / "ours.pth", weights_only=True).keys() == {"model"}
    model = MODELS[MODEL](**SIZE, num_classes=6).eval()
    assert not load_pretrained(model, tmp_path / "ours.pth", must_be_whole=True).ignored
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), peer(clip.transpose(1, 2)).logits, rtol=0, atol=1e-5)
    converted(tmp_path / "ours.pth", tmp_path / "again", "--num_frames", 8, "--input_size", 32)
    assert equal(
        load_file(tmp_path / "again/model.safetensors"), dict(load_file(tmp_path / "theirs/model.safetensors"))
    )


def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    return [np.kron(frame, np.ones((8, 8, 1), np.uint8)) for frame in coarse]


@pytest.mark.parametrize("name", ["vce", "v2v"])
def test_the_video_classification_pipeline_predicts_from_a_file_what_our_network_predicts(
    tmp_path: Path, name: str
) -> None:
    model = NETWORKS[name]()
    converted(our_checkpoint(tmp_path / "best.pth", model), tmp_path / "folder")
    path = write_video(tmp_path / "video.mp4", frames())
    pixels = Video(path).frames_at(np.arange(8))
    clip = ValidationTransform(short_side_size=32, crop_size=32)(pixels)
    with torch.no_grad():
        logits = model(clip[None])[0]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "folder")
    peer = VideoMAEForVideoClassification.from_pretrained(tmp_path / "folder")
    classify = VideoClassificationPipeline(model=peer, image_processor=processor)  # decodes by PyAV
    # Before transformers 5.23, which needs Python 3.11, the pipeline applied softmax whatever the configuration says.
    applied = {} if sys.version_info >= (3, 11) else {"function_to_apply": "none" if name == "v2v" else "sigmoid"}
    predicted = {entry["label"]: entry["score"] for entry in classify(str(path), top_k=27, **applied)}
    scores = logits if name == "v2v" else logits.sigmoid()
    assert list(predicted) == ["valence"] if name == "v2v" else set(predicted) == set(EMOTIONS)
    expected = dict(zip(predicted if name == "v2v" else EMOTIONS, scores.tolist(), strict=True))
    assert predicted == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "size"), [("vce", (48, 32)), ("v2v", (48, 32))])
def test_the_image_processor_crops_for_vce_squashes_for_v2v_and_normalises_as_we_do(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    converted(our_checkpoint(tmp_path / "best.pth", NETWORKS[name]()), tmp_path / "folder")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "folder")
    frame = np.zeros((*size, 3), np.uint8)
    frame[: size[0] // 6] = 255  # a white top that a centre crop cuts off
    pixels = processor([frame] * 8, return_tensors="pt").pixel_values[0]
    assert pixels.shape == (8, 3, 32, 32)
    black = (0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[0, :, -1, 0], black, rtol=0, atol=1e-5)
    assert (pixels[0, 0, 0, 0] > 2) == (name == "v2v")


def test_vit_b_gets_exactly_the_names_and_shapes_that_transformers_has() -> None:
    with torch.device("meta"):
        ours = MODELS["vit_base_patch16_224"](num_classes=27).state_dict()
        peer = VideoMAEForVideoClassification(VideoMAEConfig(num_labels=27, use_mean_pooling=True)).state_dict()
    theirs = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value.shape
        for name, value in peer.items()
        if not name.endswith("key.bias")
    }
    assert {name: value.shape for name, value in to_huggingface(ours).items()} == theirs


def test_pre_training_weights_of_the_hub_get_the_published_names_and_start_fine_tuning(
    tmp_path: Path, golden: Callable[[str], Any]
) -> None:
    peer = pretraining_network()
    peer.save_pretrained(tmp_path / "hub")
    converted(tmp_path / "hub", tmp_path / "pretrain.pth")
    weights = weights_of(tmp_path / "pretrain.pth")
    published = golden("checkpoint_shapes.json")["pretrain/pretrain_videomae_base_patch16_224"]
    assert {name for name in published if ".blocks." not in name or ".blocks.0." in name} == {
        name for name in weights if ".blocks.1." not in name
    }
    own = VisionTransformer(img_size=32, embed_dim=48, depth=2, num_heads=4, all_frames=8)
    load_pretrained(own, tmp_path / "pretrain.pth")
    clip = torch.randn(1, 3, 8, 32, 32)
    own.fc_norm = nn.Identity()
    with torch.no_grad():
        states = peer.videomae.encoder(peer.videomae.embeddings(clip.transpose(1, 2), None)).last_hidden_state
        torch.testing.assert_close(own.forward_features(clip), states.mean(1), rtol=0, atol=1e-5)


def test_a_v2v_head_that_got_a_bias_in_transformers_keeps_it_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted(our_checkpoint(tmp_path / "best.pth", v2v_network()), tmp_path / "folder")
    weights = load_file(tmp_path / "folder/model.safetensors")
    assert weights["classifier.bias"].tolist() == [0.0]
    save_file({**weights, "classifier.bias": torch.tensor([0.25])}, tmp_path / "folder/model.safetensors")
    capsys.readouterr()
    converted(tmp_path / "folder", tmp_path / "back.pth")
    assert "the head has a non-zero bias, which V2V's network does not have" in capsys.readouterr().out
    assert weights_of(tmp_path / "back.pth")["head.bias"].tolist() == [0.25]


def test_a_head_of_several_outputs_keeps_its_bias_of_zeros() -> None:
    state = {**network().state_dict(), "head.bias": torch.zeros(27)}
    assert equal(to_ours(to_huggingface(state)), state)


def test_names_of_transformers_in_memory_are_read_too() -> None:
    state = network().state_dict()
    theirs = {
        name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): value
        for name, value in to_huggingface(state).items()
    }
    keys = {name.replace("query.", "key."): torch.zeros(128) for name in theirs if name.endswith("query.bias")}
    assert equal(to_ours({**theirs, **keys}), state)
    with pytest.raises(ValueError, match=r"layer\.0\..*key\.bias is not zero"):
        to_ours({**theirs, **{name: value + 1 for name, value in keys.items()}})


def test_a_run_folder_and_a_last_checkpoint_become_weights_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    best = torch.load(our_checkpoint(run / "checkpoint-best.pth", network()), weights_only=True)
    (run / "config.json").write_text(json.dumps(best["config"]))
    ema = {name: value + 1 for name, value in best["model"].items()}
    torch.save({**best, "model_ema": ema, "backend": {"optimizer": {}}}, run / "checkpoint-last.pth")
    converted(run, tmp_path / "best.pth", "--to", "published")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    assert content.keys() == {"model"}
    assert equal(content["model"], best["model"])
    capsys.readouterr()
    converted(run / "checkpoint-last.pth", tmp_path / "ema.pth", "--model_key", "model_ema")
    assert "omitted: backend" in capsys.readouterr().out
    assert equal(weights_of(tmp_path / "ema.pth"), ema)


@pytest.fixture(scope="module")
def deepspeed_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    worker = [sys.executable, str(REPOSITORY / "tests/helpers/deepspeed_worker.py"), str(folder)]
    processes = [subprocess.Popen([*worker, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said[-3000:]
    return folder


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_deepspeed_folder_of_two_processes_becomes_one_file(
    tmp_path: Path, deepspeed_folders: Path, stage: int
) -> None:
    expected = weights_of(deepspeed_folders / f"zero{stage}.pth")
    converted(deepspeed_folders / f"zero{stage}", tmp_path / "whole.pth")
    assert equal(weights_of(tmp_path / "whole.pth"), expected)
    assert torch.load(tmp_path / "whole.pth", weights_only=True)["epoch"] == 7
    step = next((deepspeed_folders / f"zero{stage}").glob("global_step*"))
    converted(step, tmp_path / "step.pth")
    assert equal(weights_of(tmp_path / "step.pth"), expected)


def evil(kind: str, folder: Path, deepspeed_folders: Path) -> Path:
    """A checkpoint of this kind that would make the file `owned` when loaded without care."""
    code = RunsCode(folder / "owned")
    if kind == "file":
        torch.save({"model": network().state_dict(), "args": code}, folder / "evil.pth")
        return folder / "evil.pth"
    if kind == "hugging face":
        (folder / "evil").mkdir()
        (folder / "evil/config.json").write_text('{"model_type": "videomae"}')
        torch.save({"mask_token": code}, folder / "evil/pytorch_model.bin")
        return folder / "evil"
    step = folder / "evil/global_step1"
    step.mkdir(parents=True)
    for file in (deepspeed_folders / "zero1/global_step1").iterdir():
        content = torch.load(file, weights_only=False)
        spoilt = "model_states" in file.name if kind == "deepspeed states" else "rank_1" in file.name
        torch.save({**content, "code": code} if spoilt else content, step / file.name)
    return step.parent if kind == "deepspeed latest" else step


@pytest.mark.parametrize("kind", ["file", "hugging face", "deepspeed states", "deepspeed parts"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, deepspeed_folders: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert main([str(evil(kind, tmp_path, deepspeed_folders)), str(tmp_path / "out.pth")]) == 1
    assert "refused: the pickle contains an object of type posix.system" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "out.pth").exists()


def bad(kind: str, folder: Path) -> list[str]:
    """Arguments of a conversion that cannot be."""
    state, source, target = network().state_dict(), folder / "source.pth", "folder"
    if kind == "page":
        source.write_text("<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>")
        return [str(source), str(folder / "out.pth")]
    if kind == "cut safetensors":
        converted(our_checkpoint(source, network()), folder / "hub")
        whole = (folder / "hub/model.safetensors").read_bytes()
        (folder / "hub/model.safetensors").write_bytes(whole[: len(whole) // 2])
        return [str(folder / "hub"), str(folder / "out.pth")]
    if kind == "empty folder":
        (folder / "nothing").mkdir()
        return [str(folder / "nothing"), str(folder / "out.pth")]
    if kind == "no bias":
        del state["blocks.2.attn.q_bias"]
    elif kind == "nan":
        state["blocks.1.norm1.bias"][3] = float("nan")
    elif kind == "positions":
        state["pos_embed"] = torch.zeros(1, 16, 128)
    elif kind == "layer scale":
        state |= {f"blocks.{index}.gamma_{number}": torch.ones(128) for index in range(4) for number in (1, 2)}
    elif kind == "size":
        state = VisionTransformer(img_size=32, embed_dim=48, depth=1, num_heads=4, all_frames=8).state_dict()
    elif kind == "foreign":
        state["blocks.0.attn.relative_position"] = torch.zeros(3)
    elif kind == "suffix":
        target = "out.pth"
    torch.save({"model": state}, source)
    return [str(source), str(folder / target), "--to", "huggingface"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("page", "source.pth: a web page titled 'Quota exceeded', not weights"),
        ("cut safetensors", "model.safetensors: truncated or damaged"),
        ("empty folder", "nothing: not a checkpoint: expected"),
        ("no bias", "source.pth: 1 missing weight: blocks.2.attn.q_bias"),
        ("nan", "source.pth: 1 non-finite value in blocks.1.norm1.bias"),
        ("positions", "learned positions .* have no counterpart"),
        ("layer scale", "gamma_1 has no counterpart"),
        ("size", "unknown number of attention heads of a ViT of width 48; pass --num_heads"),
        ("foreign", "1 unexpected weight: blocks.0.attn.relative_position"),
        ("suffix", "out.pth: --to huggingface writes a folder"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, sentence: str
) -> None:
    arguments = bad(kind, tmp_path)
    there = set(tmp_path.iterdir())
    capsys.readouterr()
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(f"^error: .*{sentence}", said), said
    assert set(tmp_path.iterdir()) == there


def test_what_is_there_already_stays_unless_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = our_checkpoint(tmp_path / "best.pth", network())
    for target in (tmp_path / "folder", tmp_path / "file.pth"):
        converted(source, target)
        assert main([str(source), str(target)]) == 1
        assert "exists already" in capsys.readouterr().err
        converted(source, target, "--overwrite")
    run = tmp_path / "run"  # a run's output has a config.json too
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "log.txt").write_text("dear")
    assert main([str(source), str(run), "--overwrite"]) == 1
    assert "was not replaced" in capsys.readouterr().err
    assert (run / "log.txt").read_text() == "dear"


def test_labels_of_another_set_and_a_loss_over_classes_go_into_the_configuration(tmp_path: Path) -> None:
    torch.save({"model": network(num_classes=3).state_dict()}, tmp_path / "three.pth")
    (tmp_path / "names.txt").write_text("calm\ntense\nsad\n")
    converted(tmp_path / "three.pth", tmp_path / "folder", "--labels", tmp_path / "names.txt", "--num_frames", 8)
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert config["id2label"] == {"0": "calm", "1": "tense", "2": "sad"}
    assert (config["num_frames"], config["problem_type"]) == (8, "multi_label_classification")
    content = torch.load(our_checkpoint(tmp_path / "ce.pth", network()), weights_only=True)
    content["config"]["loss"] = "ce"
    torch.save(content, tmp_path / "ce.pth")
    converted(tmp_path / "ce.pth", tmp_path / "classes")
    assert json.loads((tmp_path / "classes/config.json").read_text())["problem_type"] == "single_label_classification"


def test_it_runs_from_any_folder_beside_our_own_inspect_and_reports_json(tmp_path: Path) -> None:
    our_checkpoint(tmp_path / "best.pth", network())
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "models/convert.py"), "best.pth", "folder", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["source_kind"], report["target_form"]) == (True, "ours", "huggingface")
    assert "verified bit for bit" in done.stderr
