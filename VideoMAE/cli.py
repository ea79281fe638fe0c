"""The start of every program: flags, messages, errors and exit status; and `emodiversity COMMAND`.

Exit status: 0 success; 1 error, or inputs that could not be processed; 2 wrong flags; 130 stopped by Ctrl-C or SIGTERM.
The training programs also use stop_request.REQUEUE_STATUS.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TextIO, TypeVar

import tyro

ALIASES = {"--use_cls": "--no_use_mean_pooling", "--mode=train": "--no_eval", "--mode=eval": "--eval"}

COMMANDS = {
    "predict": ("VideoMAE.predict", "predict emotions or pleasantness of videos"),
    "features": ("VideoMAE.extract_features", "extract features of videos from any layer"),
    "report": ("VideoMAE.report", "write a report on a run, or a comparison of two"),
    "demo": ("VideoMAE.demo", "serve a web page to try a trained network"),
    "train-vce": ("VideoMAE.run_class_finetuning", "fine-tune or test on VCE"),
    "train-v2v": ("VideoMAE.run_v2v_finetuning", "fine-tune or test on V2V"),
    "check": ("VideoMAE.dataset_tools.check_dataset", "check every label and video of a dataset"),
    "import": ("VideoMAE.dataset_tools.import_csv", "make a dataset from a CSV file and a folder of videos"),
    "describe": ("VideoMAE.dataset_tools.describe_dataset", "write a page of statistics of a dataset"),
    "subset": ("VideoMAE.dataset_tools.make_subset", "make a smaller dataset with the same proportions"),
    "prepare": ("VideoMAE.dataset_tools.prepare_videos", "re-encode the videos of a dataset for fast random access"),
    "build-metadata": ("VideoMAE.dataset_tools.build_metadata", "make metadata.json of a dataset from its videos"),
    "sample": ("VideoMAE.dataset_tools.make_sample", "make a small synthetic dataset"),
    "benchmark-loader": ("VideoMAE.dataset_tools.benchmark_loader", "measure how fast clips are loaded"),
    "to-videomae-lists": ("VideoMAE.dataset_tools.vce_to_videomae_dataset", "convert VCE's labels to CSV lists"),
    "download": ("VideoMAE.checkpoints.programs:download", "download published checkpoints"),
    "inspect": ("VideoMAE.checkpoints.programs:inspect", "show the contents of a checkpoint"),
    "convert": ("VideoMAE.checkpoints.programs:convert", "convert between checkpoint formats"),
}

Settings = TypeVar("Settings")


class UsageError(ValueError):
    """Flags that contradict each other; the program exits with status 2."""


def parse_flags(settings_type: type[Settings], argv: Sequence[str] | None = None, **options: Any) -> Settings:
    """Parses a command line (default: this process's) into a dataclass; exits with status 2 on wrong flags.

    Both `--flag value` and `--flag=value` are accepted; if a flag is repeated, the last value counts. Training programs
    also ignore the flags that launchers append, and refuse the original's flags that have no effect, with a reason.
    `options` are those of tyro.cli; with `return_unknown_args=True`, it returns a tuple.
    """
    refused = getattr(settings_type, "refused_flags", None)
    arguments: list[str] = []
    skip_value = False
    for given in sys.argv[1:] if argv is None else argv:
        # V2V's two words `--mode eval` become `--mode=eval`.
        argument = f"{arguments.pop()}={given}" if arguments[-1:] == ["--mode"] else given
        name = argument.split("=")[0]
        if skip_value:
            skip_value = False
        elif refused is not None and name in refused:
            sys.stderr.write(f"error: {name} is not supported: {refused[name]}; remove it\n")
            sys.exit(2)
        elif refused is not None and name in ("--local_rank", "--local-rank"):
            skip_value = "=" not in argument
        else:
            arguments.append(argument if refused is None else ALIASES.get(argument, argument))
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    try:
        return tyro.cli(settings_type, args=arguments, use_underscores=True, config=config, **options)
    except BrokenPipeError:  # the reader of --help has closed it, as `head` does
        _discard_output()
        sys.exit(1)


def run(
    work: Callable[..., Any],
    settings_type: type[Settings],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    accept_unknown_flags: bool = False,
    messages: TextIO | None = None,
    when_stopped: str = "",
) -> int:
    """Parses the flags and calls `work(settings)` -> exit status, 1 if `work` returns False.

    With `accept_unknown_flags`, unknown flags are the second argument of `work`. `messages` is the stream of the log
    messages (default: standard output); `when_stopped` is appended to the message after Ctrl-C or SIGTERM.
    """
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        options = {"description": description, "return_unknown_args": accept_unknown_flags}
        parsed: Any = parse_flags(settings_type, argv, **options)
        show_messages(messages or sys.stdout)
        done = work(*parsed) if accept_unknown_flags else work(parsed)
        return 1 if done is False else 0
    except UsageError as error:
        sys.stderr.write(f"error: {error}; see --help\n")
        return 2
    except BrokenPipeError:  # the reader of standard output has closed it, as `head` does
        _discard_output()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"error: stopped{when_stopped and f'; {when_stopped}'}\n")
        return 130
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 1


def _discard_output() -> None:
    """Redirects standard output to nowhere, so that the interpreter does not fail to flush it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(signal_number: int, _: FrameType | None) -> None:
    """Kills the loader workers, which would otherwise report a lost connection, and raises KeyboardInterrupt."""
    for worker in multiprocessing.active_children():
        worker.kill()
    raise KeyboardInterrupt(signal_number)


def show_messages(stream: TextIO) -> None:
    """Writes the project's log messages to `stream`, one line each; torch's messages only from WARNING up."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=stream)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] != "torch"


def counted(number: int, noun: str) -> str:
    """A number with its noun: '1 video', '2 videos', '2 processes'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def main() -> Any:
    """The command `emodiversity COMMAND ...`."""
    from VideoMAE import __version__

    name, arguments = next(iter(sys.argv[1:]), "--help"), sys.argv[2:]
    if name == "--version":
        sys.stdout.write(f"emodiversity {__version__}\n")
        return 0
    if name in COMMANDS:
        sys.argv = [f"emodiversity {name}", *arguments]
        module, _, function = COMMANDS[name][0].partition(":")
        return getattr(importlib.import_module(module), function or "main")()
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {command:<{width}}  {summary}" for command, (_, summary) in COMMANDS.items())
    remark = "'emodiversity COMMAND --help' lists the flags of a command."
    usage = f"usage: emodiversity COMMAND ...\n\n{listed}\n\n{remark}\n"
    if name in ("-h", "--help"):
        sys.stdout.write(usage)
        return 0
    sys.stderr.write(f"error: unknown command {name}\n\n{usage}")
    return 2
