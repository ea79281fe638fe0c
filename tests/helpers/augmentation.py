"""Training transforms with the defaults of config.py."""

from typing import Any, TypeVar

from VideoMAE.augment.video_transforms import TrainTransform
from VideoMAE.config import AugmentConfig

Transform = TypeVar("Transform", bound=TrainTransform)


def default_transform(kind: type[Transform], crop_size: int, **changes: Any) -> Transform:
    """A TrainTransform or FusedTransform; `changes` override arguments."""
    defaults = AugmentConfig()
    arguments: dict[str, Any] = {
        "auto_augment": defaults.aa,
        "interpolation": defaults.train_interpolation,
        "scale": (defaults.min_crop_area, 1.0),
        "erase_probability": defaults.reprob,
        "erase_mode": defaults.remode,
        "erase_count": defaults.recount,
    }
    return kind(crop_size, **{**arguments, **changes})
