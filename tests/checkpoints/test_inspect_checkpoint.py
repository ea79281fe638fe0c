"""What a checkpoint is is said without running anything in it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from weight_files import REPOSITORY, RunsCode, network, our_checkpoint, pretraining_network, v2v_network

from VideoMAE.checkpoints.inspect_checkpoint import ranges
from VideoMAE.checkpoints.programs import inspect as main


def report(path: Path, capsys: pytest.CaptureFixture[str], *flags: str, status: int = 0) -> dict[str, Any]:
    """The JSON report; the readable one must come beside it."""
    capsys.readouterr()
    assert main([str(path), "--json", *flags]) == status
    said = capsys.readouterr()
    assert said.err
    return json.loads(said.out)


def test_our_checkpoint_shows_kind_network_names_shapes_epoch_metrics_and_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    path = our_checkpoint(tmp_path / "checkpoint-best.pth", model)
    for place in (path, tmp_path):  # the file, or the run's folder
        found = report(place, capsys)
        assert (found["ok"], found["kind"], found["file"]) == (True, "ours", str(path))
    assert found["size_bytes"] == path.stat().st_size
    assert found["weights"] == {
        name: {"shape": list(value.shape), "dtype": "float32"} for name, value in model.state_dict().items()
    }
    assert found["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["network"] == {
        "model": "vit_micro_patch16_224",
        "embed_dim": 128,
        "depth": 4,
        "patch_size": 16,
        "tubelet_size": 2,
        "mlp_ratio": 4.0,
        "num_classes": 27,
        "head_bias": True,
        "use_mean_pooling": True,
        "qkv_bias": True,
        "init_values": 0.0,
    }
    assert (found["beside"]["epoch"], found["beside"]["metrics"]) == (3, {"val_acc1": 12.5})
    assert found["beside"]["config"]["data"]["num_frames"] == 8


def test_the_readable_report_has_a_line_for_all_blocks_alike_and_one_each_with_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = v2v_network().state_dict()
    state["blocks.3.norm1.weight"] = state["blocks.3.norm1.weight"].half()
    torch.save({"module": state, "optimizer": {"state": [torch.zeros(3)] * 4}}, tmp_path / "file.pth")
    assert main([str(tmp_path / "file.pth")]) == 0
    text = capsys.readouterr().out
    assert "a fine-tuned checkpoint in the published form" in text
    assert "vit_micro_patch16_224: width 128, 4 blocks, patches of 2x16x16, 1 output without bias" in text
    lines = {tuple(line.split(maxsplit=1)) for line in text.splitlines() if line}
    assert ("optimizer", "4 tensors, not shown") in lines
    assert ("blocks.0-3.attn.qkv.weight", "(384, 128)               float32") in lines
    assert ("blocks.0-2.norm1.weight", "(128,)                   float32") in lines
    assert ("blocks.3.norm1.weight", "(128,)                   float16") in lines
    assert ("head.0.weight", "(1, 128)                 float32") in lines
    assert main([str(tmp_path / "file.pth"), "--names"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in state)


def test_ranges_of_block_numbers() -> None:
    assert [ranges(numbers) for numbers in ([0, 1, 2, 5], [4], [3, 1])] == ["0-2,5", "4", "1,3"]


@pytest.mark.parametrize("kind", ["published pre-training", "published", "bare", "huggingface"])
def test_kinds_are_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    state, path = network().state_dict(), tmp_path / "file.pth"
    if kind == "huggingface":
        path = tmp_path / "folder"
        pretraining_network().save_pretrained(path)
    elif kind == "published pre-training":
        encoder = {f"encoder.{name}": value for name, value in state.items() if name.split(".")[0] != "head"}
        args = argparse.Namespace(epochs=1601, lr=1.5e-4, betas=(0.9, float("nan")))
        torch.save({"model": encoder, "args": args, "epoch": 1600}, path)
    else:
        torch.save({"module": state} if kind == "published" else state, path)
    found = report(path, capsys)
    assert found["kind"] == kind
    assert found["network"]["depth"] == (2 if kind == "huggingface" else 4)
    if kind == "published pre-training":
        assert found["beside"] == {"epoch": 1600, "args": {"epochs": 1601, "lr": 1.5e-4, "betas": [0.9, "nan"]}}
        assert "num_classes" not in found["network"]


def test_values_that_are_not_finite_are_named_and_make_the_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = network().state_dict()
    state["blocks.1.norm2.bias"][:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    torch.save({"model": state}, tmp_path / "broken.pth")
    found = report(tmp_path / "broken.pth", capsys, status=1)
    assert found["not_finite"] == {"blocks.1.norm2.bias": 3}
    assert found["problem"].endswith("broken.pth: 3 non-finite values in blocks.1.norm2.bias")


def test_weights_of_another_network_are_shown_as_no_videomae(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.pth")
    found = report(tmp_path / "resnet.pth", capsys)
    assert (found["network"], found["weights"]) == (None, {"conv1.weight": {"shape": [8, 3, 7, 7], "dtype": "float32"}})


def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": network().state_dict(), "args": RunsCode(tmp_path / "owned")}, tmp_path / "evil.pth")
    assert report(tmp_path / "evil.pth", capsys, status=1)["problem"].endswith(
        "evil.pth: refused: the pickle contains an object of type posix.system"
    )
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("page.pth", b"\n<html><head><title>Sign in</title></head>", "page.pth: a web page titled 'Sign in', not"),
        ("page.safetensors", b"<!doctype html>", "page.safetensors: a web page, not weights"),
        ("empty.pth", b"", "empty.pth: truncated or damaged"),
        ("short.safetensors", b"\x10\0\0\0\0\0\0\0{}", "short.safetensors: truncated or damaged"),
        ("absent.pth", None, "absent.pth: no such checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main([str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    ("folder", "script"),
    [("/", REPOSITORY / "models/inspect_checkpoint.py"), (REPOSITORY / "VideoMAE/models", "inspect_checkpoint.py")],
    ids=["elsewhere", "beside it"],
)
def test_it_runs_from_any_folder(tmp_path: Path, folder: str | Path, script: str | Path) -> None:
    our_checkpoint(tmp_path / "best.pth", network())
    command = [sys.executable, str(script), str(tmp_path / "best.pth")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a checkpoint of this project" in done.stdout
    assert not done.stderr
