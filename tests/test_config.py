"""Flags: the original spelling, sentences for those that do nothing, launchers' extras, and comparing two runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from VideoMAE.cli import parse_flags
from VideoMAE.config import REFUSED_FLAGS, ModelName, V2VConfig, VCEConfig, differences, to_json
from VideoMAE.modeling_finetune import MODELS
from VideoMAE.training.tasks import LOSSES

NEEDED = ("--data_path", "/vce", "--output_dir", "/out")
# The flags of the original VCE script, where they still do something.
SCRIPT = """--model vit_base_patch16_224 --data_set VCE --nb_classes 27 --data_path /vce --finetune /k400.pth
    --log_dir /logs --output_dir /out --batch_size 8 --num_sample 1 --input_size 224 --short_side_size 224
    --save_ckpt_freq 10 --num_frames 16 --opt adamw --lr 5e-4 --opt_betas 0.9 0.999 --weight_decay 0.05 --epochs 50
    --dist_eval --test_num_segment 2 --test_num_crop 3 --num_workers 10 --enable_deepspeed"""
# Defaults of the original parser that matter, where the project keeps them.
DEFAULTS: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 50,
    "update_freq": 1,
    "save_ckpt_freq": 10,
    "tubelet_size": 2,
    "input_size": 224,
    "fc_drop_rate": 0.0,
    "drop": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path": 0.1,
    "disable_eval_during_finetuning": False,
    "model_ema": False,
    "model_ema_decay": 0.9999,
    "model_ema_force_cpu": False,
    "opt": "adamw",
    "opt_eps": 1e-8,
    "opt_betas": [0.9, 0.999],
    "clip_grad": None,
    "momentum": 0.9,
    "weight_decay": 0.05,
    "weight_decay_end": None,
    "lr": 5e-4,
    "layer_decay": 0.75,
    "min_lr": 1e-6,
    "warmup_epochs": 5,
    "warmup_steps": -1,
    "num_sample": 1,
    "aa": "rand-m7-n4-mstd0.5-inc1",
    "smoothing": 0.1,
    "train_interpolation": "bicubic",
    "reprob": 0.25,
    "remode": "pixel",
    "recount": 1,
    "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
    "finetune": None,
    "model_key": "model|module",
    "model_prefix": "",
    "init_scale": 0.001,
    "use_checkpoint": False,
    "use_mean_pooling": True,
    "nb_classes": None,
    "num_frames": 16,
    "sampling_rate": 4,
    "data_set": "VCE",
    "device": "auto",
    "seed": 0,
    "resume": None,
    "auto_resume": True,
    "save_ckpt": True,
    "start_epoch": 0,
    "num_workers": 10,
    "pin_mem": True,
    "train_fps": 4.0,
    "test_num_segment": 2,
    "test_num_crop": 3,
    "loss": "bce",
    "mixup": 0.0,
    "cutmix": 0.0,
    "enable_deepspeed": False,
    "eval": False,
}


def parse(*arguments: str) -> VCEConfig:
    return parse_flags(VCEConfig, [*NEEDED, *arguments])


def flat(config: VCEConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in to_json(config).items():
        settings.update(value if isinstance(value, dict) else {name: value})
    return settings


def test_the_original_scripts_flags_are_understood() -> None:
    config = parse_flags(VCEConfig, SCRIPT.split())
    assert config.data.data_path == Path("/vce")
    assert config.model.finetune == Path("/k400.pth")
    assert config.run.log_dir == Path("/logs")
    assert config.optim.lr == 5e-4
    assert config.run.enable_deepspeed
    assert config.run.dist_eval


def test_defaults_are_the_original_ones_or_the_recipes() -> None:
    settings = flat(parse())
    assert {name: settings[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("missing", ["--data_path", "--output_dir"])
def test_folders_must_be_given(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    position = NEEDED.index(missing)
    with pytest.raises(SystemExit) as caught:
        parse_flags(VCEConfig, NEEDED[:position] + NEEDED[position + 2 :])
    assert caught.value.code not in (0, None)
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("flag", REFUSED_FLAGS)
@pytest.mark.parametrize("form", ["{} 1", "{}=1"])
def test_an_original_flag_without_effect_is_refused_with_the_reason(
    flag: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*form.format(flag).split())
    assert capsys.readouterr().err == f"error: {flag} is not supported: {REFUSED_FLAGS[flag]}; remove it\n"


def test_init_scale_is_refused_for_v2v_whose_head_it_does_not_reach(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_flags(V2VConfig, ["--data_dir", "/v2v", "--results_path", "/out", "--init_scale", "1"])
    assert capsys.readouterr().err.startswith("error: --init_scale is not supported: the V2V head keeps")
    with pytest.raises(SystemExit):
        parse_flags(V2VConfig, ["--help"])
    assert "init_scale" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--batchsize", "4"], ["--lr_scale=2"], ["--nb_clases", "27"], ["stray"], ["--use_clss"]]
)
def test_an_unknown_flag_is_refused_and_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code not in (0, None)
    assert arguments[0].split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--batch_size", "four"], ["--opt_betas", "0.9"], ["--data_set", "UCF101"], ["--model", "vit_tiny"], ["--lr"]],
)
def test_a_value_of_the_wrong_kind_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code not in (0, None)
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "spelling", [["--local_rank", "3"], ["--local-rank", "3"], ["--local_rank=3"], ["--local-rank=3"]]
)
def test_the_launchers_local_rank_is_accepted_and_changes_nothing(spelling: list[str]) -> None:
    assert parse_flags(VCEConfig, [*spelling, *NEEDED, "--lr", "1"]) == parse("--lr", "1")
    assert parse("--lr", "1", *spelling) == parse("--lr", "1")


def test_the_last_of_equal_flags_wins_in_either_form() -> None:
    assert parse("--lr", "1", "--lr", "2").optim.lr == 2
    assert parse("--lr=1", "--lr", "2").optim.lr == 2
    assert parse("--lr", "1", "--lr=2", "--epochs=3").optim.lr == 2
    assert not parse("--auto_resume", "--no_auto_resume").run.auto_resume
    assert parse("--opt_betas", "0.1", "0.2", "--opt_betas", "0.3", "0.4").optim.opt_betas == (0.3, 0.4)


def test_use_cls_is_no_mean_pooling() -> None:
    assert parse().model.use_mean_pooling
    assert not parse("--use_cls").model.use_mean_pooling
    assert not parse("--no_use_mean_pooling").model.use_mean_pooling
    assert parse("--use_cls", "--use_mean_pooling").model.use_mean_pooling


@pytest.mark.parametrize("flag", ["pin_mem", "auto_resume", "save_ckpt", "dist_eval"])
def test_switches_that_are_on_have_a_no(flag: str) -> None:
    assert flat(parse())[flag] is True
    assert flat(parse(f"--no_{flag}"))[flag] is False
    assert flat(parse(f"--no_{flag}", f"--{flag}"))[flag] is True


def test_opt_betas_takes_two_values() -> None:
    assert parse("--opt_betas", "0.8", "0.95").optim.opt_betas == (0.8, 0.95)


def test_none_is_a_value_where_a_flag_may_be_off() -> None:
    assert parse("--train_fps", "None").data.train_fps is None
    assert parse("--clip_grad", "1.5").optim.clip_grad == 1.5
    assert parse("--clip_grad", "1.5", "--clip_grad", "None").optim.clip_grad is None


def test_model_and_loss_choices_are_the_ones_that_exist() -> None:
    assert get_args(ModelName) == tuple(MODELS)
    for name in LOSSES:
        assert parse("--loss", name).loss == name
    with pytest.raises(SystemExit):
        parse("--loss", "hinge")


def test_help_lists_every_flag_in_the_original_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in flat(parse()):
        assert (f"--{name}" in shown) == (name != "exclude_content")  # that one the run fills in


def test_no_two_flags_share_a_name() -> None:
    config = parse()
    groups = [getattr(config, field.name) for field in dataclasses.fields(config)]
    names = [f.name for group in groups if dataclasses.is_dataclass(group) for f in dataclasses.fields(group)]
    assert len(set(names)) == len(names)
    assert not {"loss", "smoothing"} & set(names)


def test_settings_survive_json() -> None:
    settings = to_json(parse("--finetune", "/k400.pth"))
    assert json.loads(json.dumps(settings)) == settings
    assert settings["data"]["data_path"] == "/vce"
    assert settings["model"]["finetune"] == "/k400.pth"
    assert settings["optim"]["opt_betas"] == [0.9, 0.999]
    assert settings["optim"]["clip_grad"] is None


def test_runs_differ_in_the_flags_that_change_results_only() -> None:
    saved = json.loads(json.dumps(to_json(parse())))
    assert differences(saved, to_json(parse())) == []
    harmless = ["--num_workers", "2", "--no_pin_mem", "--log_dir", "/l", "--device", "cpu", "--save_ckpt_freq", "3"]
    harmless += ["--resume", "/c.pth", "--no_auto_resume", "--no_save_ckpt", "--max_bad_videos", "1", "--no_dist_eval"]
    assert differences(saved, to_json(parse(*harmless))) == []
    changed = to_json(parse("--lr", "1", "--seed", "7", "--loss", "ce", "--opt_betas", "0.9", "0.99"))
    assert differences(saved, changed) == [
        "--loss: bce there, ce here",
        "--lr: 0.0005 there, 1.0 here",
        "--opt_betas: [0.9, 0.999] there, [0.9, 0.99] here",
        "--seed: 0 there, 7 here",
    ]


def test_a_flag_that_only_one_run_knows_is_a_difference() -> None:
    saved = to_json(parse())
    del saved["optim"]["momentum"]
    assert differences(saved, to_json(parse())) == ["--momentum: None there, 0.9 here"]
