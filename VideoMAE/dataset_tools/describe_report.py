"""What the page of a described dataset says, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.dataset_tools.describe_charts import NAMES_OF_SPLITS, percent
from VideoMAE.reporting.page import (
    Drawn,
    Strip,
    card,
    charts,
    folded,
    page,
    paragraph,
    section,
    strip,
    table,
    tiles,
    unreadable,
)

CHARTS_OF_VIDEOS = ("durations", "sizes", "frame_rates")


def render(
    numbers: Mapping[str, Any], drawn: Sequence[Drawn], strips: Sequence[Strip], thumbnails: Mapping[str, bytes]
) -> str:
    """The page as HTML."""
    of_videos = [entry for entry in drawn if entry.chart.name in CHARTS_OF_VIDEOS]
    of_labels = [entry for entry in drawn if entry not in of_videos]
    name = Path(numbers["root"]).name
    is_vce = numbers["kind"] == "vce"
    title, parts = (_emotion_parts if is_vce else _preference_parts)(numbers, of_labels)
    if numbers["unreadable"]:
        parts.append(_unreadable_part(numbers["unreadable"]))
    if of_videos:
        parts.append(section("Videos", _coverage(numbers), charts(of_videos)))
    if any(entry.pictures for entry in strips):
        parts.append(_examples(strips, thumbnails, is_vce=is_vce))
    return page(
        f"{name}: {title}", "Made by data_prep/describe_dataset.py; every number is in description.json.", parts
    )


def _emotion_parts(numbers: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
    counts, found = numbers["num_videos"], numbers["guesses"]
    guess, chance = found["majority_guess"], found["chance"]
    total = sum(counts.values())
    shown = {
        "training videos": f"{counts['train']:,}",
        "test videos": f"{counts['test']:,}",
        "emotions": str(len(numbers["emotions"])),
        **_length_tile(numbers),
        f"top-1 accuracy of always answering {found['majority_emotions'][0]}": f"{guess['acc1']:.2f} %",
        "top-3 accuracy of always the three commonest": f"{guess['acc3']:.2f} %",
    }
    names = found["majority_emotions"]
    explained = (
        f"Without looking at a video, always answering {names[0]} (for three answers: {', '.join(names)}), the "
        "commonest of the training split, gets this on the test split. A model has to beat it."
    )
    metrics = {
        "top-1: the most intense emotion is answered": "acc1",
        "top-3: the most intense emotion is among three answers": "acc3",
        "the answer is among the three most intense emotions": "predicted_in_true_top3",
    }
    rows = [[what, f"{guess[key]:.2f} %", f"{min(chance[key], 100):.2f} %"] for what, key in metrics.items()]
    return f"{total:,} videos, {len(numbers['emotions'])} emotions", [
        tiles(shown),
        section("Emotions", charts(drawn), folded("The numbers of every emotion", _emotion_table(numbers))),
        section("What guessing gets", paragraph(explained), card(table(["accuracy", "commonest", "chance"], rows))),
    ]


def _emotion_table(numbers: Mapping[str, Any]) -> str:
    header = [
        "emotion",
        "first, train",
        "first, test",
        "top 3, train",
        "mean",
        "deviation",
        "median",
        "95th percentile",
    ]
    rows = []
    for place, name in enumerate(numbers["emotions"]):
        found = numbers["intensity"][name]
        shares = [
            percent(numbers[f"{rank}_counts"][split][place] / numbers["num_videos"][split])
            for rank, split in (("top1", "train"), ("top1", "test"), ("top3", "train"))
        ]
        values = (
            found["mean"], found["standard_deviation"], found["percentiles"]["50"], found["percentiles"]["95"],
        )  # fmt: skip
        rows.append([name, *shares, *(f"{value:.3f}" for value in values)])
    return table(header, rows)


def _preference_parts(numbers: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
    splits = numbers["splits"]
    num_pairs = sum(found["num_comparisons"] for split, found in splits.items() if split != "listwise")
    num_lists = splits["listwise"]["num_comparisons"] if "listwise" in splits else 0
    shown = {
        "videos": f"{numbers['num_videos']:,}",
        "training comparisons": f"{splits['train']['num_comparisons']:,}",
        "test comparisons": f"{splits['test']['num_comparisons']:,}",
        "lists": f"{num_lists:,}",
        **_length_tile(numbers),
        "pairs said both ways round": f"{sum(found['num_contradictions'] for found in splits.values()):,}",
    }
    shared = sum(numbers["num_shared_videos"].values())
    rows = [
        [
            NAMES_OF_SPLITS[split],
            *(
                f"{found[key]:,}"
                for key in (
                    "num_comparisons", "num_videos", "num_components", "largest_component", "num_contradictions",
                    "num_videos_in_cycles",
                )
            ),
        ]
        for split, found in splits.items()
    ]  # fmt: skip
    header = ["split", "comparisons", "videos", "components", "largest", "contradictions", "videos in circles"]
    explained = (f"The splits share {shared:,} videos." if shared else "The splits share no video.") + (
        " A contradiction is two videos preferred both ways round; videos stand in a circle where following "
        "preferences leads back to the start, so that no score can agree with all of them."
    )
    return f"{num_pairs:,} pairs and {num_lists:,} lists over {numbers['num_videos']:,} videos", [
        tiles(shown),
        section("Comparisons", charts(drawn)),
        section("Consistency", paragraph(explained), card(table(header, rows))),
    ]


def _length_tile(numbers: Mapping[str, Any]) -> dict[str, str]:
    videos = numbers["videos"]
    return {"hours of video": f"{videos['total_hours']:,.1f}"} if videos else {}


def _coverage(numbers: Mapping[str, Any]) -> str:
    missing = numbers["num_videos_without_facts"]
    known = f"{numbers['videos']['num_videos']:,} videos are counted here"
    return paragraph(f"{known}; of {missing:,} others nothing is known." if missing else f"{known}, all of them.")


def _examples(strips: Sequence[Strip], thumbnails: Mapping[str, bytes], *, is_vce: bool) -> str:
    said = (
        "The middle frames of the videos with the highest intensity of each emotion, even where another one is higher."
        if is_vce
        else "The middle frames of the videos with the highest and the lowest share of preferences, drawn towards a "
        "half where there are few: (times preferred + 1) / (comparisons with another video + 2)."
    )
    return section("Examples", paragraph(said), *(strip(entry, thumbnails) for entry in strips))


def _unreadable_part(reasons: Mapping[str, str]) -> str:
    said = f"{len(reasons):,} of the videos looked at cannot be read. They have no thumbnail; their labels are counted."
    return section("Unreadable videos", paragraph(said), unreadable(reasons, more_in="description.json"))
