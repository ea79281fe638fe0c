"""RandAugment for clips: the same operations on every frame.

`RandAugment.draw` draws the operations with all their parameters, and `apply_operations` applies them without random
numbers. The image functions are timm's, so each frame equals timm's result for that image.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

FILL = (128, 128, 128)
MAX_LEVEL = 10.0
UNIFORM_MAGNITUDE_STD = 100.0  # above this, magnitudes are uniform, as in timm

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# The operations whose level has a random sign in timm, and their largest argument, at level 10. timm's own level
# functions are not used because they draw the sign from the global generator.
_SIGNED_LIMIT = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_ENHANCEMENTS = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
_ENHANCEMENT_LIMIT = 0.9


class AppliedOperation(NamedTuple):
    """An operation with its parameters."""

    name: str  # as in timm's NAME_TO_OP
    args: tuple[float, ...]  # degrees, fraction of the frame's side, factor, bits or threshold; () without a level
    interpolation: str  # "bilinear" or "bicubic"; used by rotation, shear and translation


class RandAugmentSettings(NamedTuple):
    """The settings of an --aa string."""

    magnitude: float = MAX_LEVEL
    num_operations: int = 2
    magnitude_std: float = 0.0  # inf: uniform in [0, magnitude]
    max_magnitude: float = MAX_LEVEL
    probability: float = 0.5  # of applying a drawn operation
    increasing: bool = False  # a higher level is always a stronger distortion


_PARTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "m": ("magnitude", int),
    "n": ("num_operations", int),
    "mstd": ("magnitude_std", float),
    "mmax": ("max_magnitude", int),
    "p": ("probability", float),
    "inc": ("increasing", lambda text: bool(int(text))),
}


def _timm() -> Any:
    """timm's augmentation. Deferred: importing it takes as long as importing torch."""
    from timm.data import auto_augment

    return auto_augment


def parse_rand_augment(config: str) -> RandAugmentSettings:
    """Parses an --aa string: "rand-m7-n4-mstd0.5-inc1" -> RandAugmentSettings(7, 4, 0.5, 10, 0.5, True).

    "none" and "" mean no operations. Source: the strings of timm.data.auto_augment, without its sets (`t`) and weights
    (`w`). Raises ValueError for an unknown part.
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
            raise ValueError(f"--aa {config!r}: part {part!r} is not a valid number") from error
    if values.get("probability", 0) > 1:
        raise ValueError(f"--aa {config!r}: probability {values['probability']} is above 1")
    if values.get("magnitude_std", 0) > UNIFORM_MAGNITUDE_STD:
        values["magnitude_std"] = float("inf")
    values["max_magnitude"] = values.get("max_magnitude") or MAX_LEVEL  # 0: the same, as in timm
    return RandAugmentSettings(**values)


class RandAugment:
    """Draws the operations of a clip.

    Source: RandAugment (Cubuk et al., 2019, arXiv:1909.13719, section 3) with timm's noise on the magnitude. `config`
    is an --aa string; the interpolation is bilinear, bicubic, or random, which draws one of the two per operation.
    """

    def __init__(self, config: str, *, interpolation: str) -> None:
        if interpolation not in (*_RESAMPLING, "random"):
            raise ValueError(f"--train_interpolation {interpolation!r}: must be one of {[*_RESAMPLING, 'random']}")
        self.settings = parse_rand_augment(config)
        self.interpolations = list(_RESAMPLING) if interpolation == "random" else [interpolation]
        self.names: tuple[str, ...] = ()
        if self.settings.num_operations:
            self.names = tuple(_timm().rand_augment_choices("", increasing=self.settings.increasing))

    def draw(self, rng: np.random.Generator) -> list[AppliedOperation]:
        """Draws `num_operations` operations uniformly, with replacement, and drops each with 1 - `probability`."""
        settings, num = self.settings, self.settings.num_operations
        if not num:
            return []
        names = [self.names[choice] for choice in rng.integers(len(self.names), size=num)]
        applied = rng.random(num) < settings.probability
        if np.isinf(settings.magnitude_std):
            magnitudes = rng.uniform(0, settings.magnitude, num)
        else:
            magnitudes = rng.normal(settings.magnitude, settings.magnitude_std, num)
        magnitudes = np.clip(magnitudes, 0, settings.max_magnitude)
        signs = np.where(rng.random(num) < 0.5, -1.0, 1.0)
        interpolations = [self.interpolations[choice] for choice in rng.integers(len(self.interpolations), size=num)]
        return [
            AppliedOperation(name, self.level_args(name, float(magnitude), float(sign)), interpolation)
            for name, magnitude, sign, interpolation, is_applied in zip(
                names, magnitudes, signs, interpolations, applied, strict=True
            )
            if is_applied
        ]

    def level_args(self, name: str, magnitude: float, sign: float) -> tuple[float, ...]:
        """The arguments of an operation at a magnitude; `sign` is -1 or 1, for operations with a sign."""
        level = sign * magnitude / MAX_LEVEL
        if name in _SIGNED_LIMIT:
            return (level * _SIGNED_LIMIT[name],)
        if name in _ENHANCEMENTS:
            return (max(0.1, 1.0 + level * _ENHANCEMENT_LIMIT),)  # a factor; 1 has no effect
        level_function = _timm().LEVEL_TO_ARG[name]
        return () if level_function is None else tuple(level_function(magnitude, {}))


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's function, but 0 bits (level 10) give black, as in older versions of Pillow; newer ones raise an error."""
    return _timm().posterize(image, bits) if bits >= 1 else Image.new(image.mode, image.size)


def image_function(name: str) -> Callable[..., Image.Image]:
    """The function of an operation: (image, *args, fillcolor=, resample=) -> image."""
    return _posterize if name in ("Posterize", "PosterizeIncreasing") else _timm().NAME_TO_OP[name]


def apply_operations(frames: np.ndarray, operations: Sequence[AppliedOperation]) -> np.ndarray:
    """Applies operations to every frame, (T, H, W, 3) uint8 -> (T, H, W, 3) uint8.

    Pixels from outside the frame are gray (128). Returns a copy, or `frames` itself if there are no operations.
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
