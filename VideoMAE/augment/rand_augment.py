"""RandAugment for clips: one draw, applied alike to every frame.

Drawing and applying are two steps. `RandAugment.draw` turns random numbers into a list of `AppliedOperation`, which
says all there is to know; `apply_operations` turns frames into frames and draws nothing. The pictures themselves come
from timm's per-image functions, so that a frame looks exactly as it would in timm.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

FILL = (128, 128, 128)
MAX_LEVEL = 10.0
UNIFORM_MAGNITUDE_STD = 100.0  # a deviation above this asks timm for a uniform magnitude

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# The operations whose level timm gives a random sign, with the unsigned argument at level 10. timm's own level
# functions would take that sign from the global generator.
_SIGNED_LIMIT = {
    "Rotate": 30.0,
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateXRel": 0.45,
    "TranslateYRel": 0.45,
    "ColorIncreasing": 0.9,
    "ContrastIncreasing": 0.9,
    "BrightnessIncreasing": 0.9,
    "SharpnessIncreasing": 0.9,
}


class AppliedOperation(NamedTuple):
    """One operation as it is done to every frame of a clip."""

    name: str  # as in timm's NAME_TO_OP
    args: tuple[float, ...]  # degrees, share of the frame's side, factor, bits or threshold; () where it has no level
    interpolation: str  # "bilinear" or "bicubic"; read by rotation, shear and translation only


@dataclass(frozen=True)
class RandAugmentSettings:
    """What a `--aa` string says."""

    magnitude: float = MAX_LEVEL
    num_operations: int = 2
    magnitude_std: float = 0.0  # inf: uniform in [0, magnitude]
    max_magnitude: float = MAX_LEVEL
    probability: float = 0.5  # of each drawn operation to be applied
    increasing: bool = False  # levels that always mean "more distortion"


_PARTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "m": ("magnitude", int),
    "n": ("num_operations", int),
    "mstd": ("magnitude_std", float),
    "mmax": ("max_magnitude", int),
    "p": ("probability", float),
    "inc": ("increasing", lambda text: bool(int(text))),
}


def _timm() -> Any:
    """timm's augmentation, imported when it is wanted: it takes as long as torch."""
    from timm.data import auto_augment

    return auto_augment


def parse_rand_augment(config: str) -> RandAugmentSettings:
    """Read a `--aa` string, `"rand-m7-n4-mstd0.5-inc1"` -> RandAugmentSettings(7, 4, 0.5, 10, 0.5, True).

    "none" and "" mean no operation. Raises ValueError, naming the flag and the part, for anything not understood;
    timm's sets (`t`) and its former weights (`w`) are among that. Source: the strings of timm.data.auto_augment.
    """
    if config in ("", "none"):
        return RandAugmentSettings(num_operations=0)
    policy, *parts = config.split("-")
    if policy != "rand":
        raise ValueError(f"--aa {config!r}: unknown policy {policy!r}, expected 'rand-...' or 'none'")
    values: dict[str, Any] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d[\d.]*)", part)
        if match is None or match[1] not in _PARTS:
            raise ValueError(f"--aa {config!r}: unknown part {part!r}, expected a number after one of {sorted(_PARTS)}")
        field, convert = _PARTS[match[1]]
        try:
            values[field] = convert(match[2])
        except ValueError as error:
            raise ValueError(f"--aa {config!r}: part {part!r} does not hold a number of the right kind") from error
    if values.get("probability", 0) > 1:
        raise ValueError(f"--aa {config!r}: probability {values['probability']} is above 1")
    if values.get("magnitude_std", 0) > UNIFORM_MAGNITUDE_STD:
        values["magnitude_std"] = float("inf")
    if values.get("max_magnitude") == 0:
        values["max_magnitude"] = MAX_LEVEL  # as timm reads mmax0
    return RandAugmentSettings(**values)


class RandAugment:
    """Draws the operations of a clip, (rng) -> list of AppliedOperation.

    Translations are shares of the frame's own width or height, up to 0.45 at level 10, whatever is cropped afterwards.
    `interpolation` is "bilinear", "bicubic", or "random" for one of the two per operation. Raises ValueError naming
    `--aa` or `--train_interpolation`.
    Source: RandAugment (Cubuk et al., 2019, arXiv:1909.13719, section 3) with timm's noise on the magnitude.
    """

    def __init__(self, config: str, *, interpolation: str = "bicubic") -> None:
        if interpolation not in (*_RESAMPLING, "random"):
            raise ValueError(
                f"--train_interpolation {interpolation!r} is unknown, expected one of {[*_RESAMPLING, 'random']}"
            )
        self.settings = parse_rand_augment(config)
        self.interpolations = list(_RESAMPLING) if interpolation == "random" else [interpolation]
        self.names: tuple[str, ...] = ()
        if self.settings.num_operations:
            self.names = tuple(_timm().rand_augment_choices("", increasing=self.settings.increasing))

    def draw(self, rng: np.random.Generator) -> list[AppliedOperation]:
        """Draw the operations of one clip, (rng) -> list of at most `num_operations` AppliedOperation.

        Names are drawn uniformly, with replacement; each is then applied with the probability of the settings.
        """
        settings = self.settings
        num = settings.num_operations
        if not num:
            return []
        choices = rng.integers(len(self.names), size=num)
        applied = rng.random(num) < settings.probability
        if np.isinf(settings.magnitude_std):
            magnitudes = rng.uniform(0, settings.magnitude, num)
        else:
            magnitudes = rng.normal(settings.magnitude, settings.magnitude_std, num)
        magnitudes = np.clip(magnitudes, 0, settings.max_magnitude)
        signs = np.where(rng.random(num) < 0.5, -1.0, 1.0)
        interpolations = rng.integers(len(self.interpolations), size=num)
        return [
            AppliedOperation(
                name=self.names[choices[i]],
                args=self.level_args(self.names[choices[i]], float(magnitudes[i]), float(signs[i])),
                interpolation=self.interpolations[interpolations[i]],
            )
            for i in range(num)
            if applied[i]
        ]

    def level_args(self, name: str, magnitude: float, sign: float) -> tuple[float, ...]:
        """The arguments of an operation at a magnitude, `sign` -1 or 1 for those that have one -> tuple of numbers."""
        if name in _SIGNED_LIMIT:
            level = sign * magnitude / MAX_LEVEL * _SIGNED_LIMIT[name]
            # An enhancement's argument is a factor around 1, where 1 changes nothing.
            return (max(0.1, 1.0 + level) if name.endswith("Increasing") else level,)
        level_function = _timm().LEVEL_TO_ARG[name]
        return () if level_function is None else tuple(level_function(magnitude, {}))

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw and apply, (T, H, W, 3) uint8 -> (T, H, W, 3) uint8."""
        return apply_operations(frames, self.draw(rng))


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, except that no bits leave black, as in former Pillows: recent ones refuse what level 10 asks for."""
    return _timm().posterize(image, bits) if bits >= 1 else Image.new(image.mode, image.size)


@cache
def _image_functions() -> dict[str, Any]:
    return {**_timm().NAME_TO_OP, "Posterize": _posterize, "PosterizeIncreasing": _posterize}


def image_function(name: str) -> Callable[..., Image.Image]:
    """What an operation does to one picture: (image, *args, fillcolor=, resample=) -> image."""
    return _image_functions()[name]


def apply_operations(frames: np.ndarray, operations: Sequence[AppliedOperation]) -> np.ndarray:
    """Do the operations in their order to every frame, (T, H, W, 3) uint8 -> (T, H, W, 3) uint8.

    Pixels that come from outside a frame are grey (128). Returns `frames` itself when there is nothing to do, and never
    writes to it. Source: the image functions of timm.data.auto_augment.
    """
    if not operations:
        return frames
    augmented = np.empty(frames.shape, dtype=np.uint8)
    for frame, target in zip(frames, augmented, strict=True):
        image = Image.fromarray(frame)
        for operation in operations:
            resample = _RESAMPLING[operation.interpolation]
            image = image_function(operation.name)(image, *operation.args, fillcolor=FILL, resample=resample)
        target[...] = np.asarray(image)
    return augmented
