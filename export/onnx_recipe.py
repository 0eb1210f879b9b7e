"""How an exported graph multiplies: what is rounded, and what is done before so that rounding costs little."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pairgrade.document_facts import LARGEST_TAIL
from pairgrade.errors import InputError

ACTIVATIONS = ("float", "static", "token", "tensor")
PREFIXES = ("same", "weights", "float")
ROTATIONS = ("none", "heads", "all")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize. The defaults of each name in ``RECIPES`` were chosen in docs/decisions/onnx-engine.md."""

    weights: int = 0  # bits; 0 leaves them as float32
    # 8-bit scales: "token", of each token; "tensor", of each batch; "static", one calibrated a product, and behind the
    # last attention, where only last tokens are left, of each token. "float": full precision or, where weights have
    # 8 bits, 16 with a scale of each token; a pass of our own takes "static" and "token" only
    activations: str = "float"
    prefix: str = "float"  # of the prefix graph: "same", its weights in 8 bits and activations in 16, or full precision
    rotate: str = "none"  # turned by random orthogonal matrices: value heads, or all, the residual stream included
    norm_block: int = 0  # the largest block of the Hadamard rotation at run time behind the norms of a layer; 0: none
    down_block: int = 0  # the same before the down product
    smooth_norms: float = 0.0  # part of the outliers of normalized values that goes into the weights: 0 none, 1 all
    smooth_down: float = 0.0  # the same of the down product's input
    smooth_powers: bool = False  # of the down input, by powers of two: an 8-bit prefix shares the up product's weights
    seed: int = 0  # of the rotations
    fit: bool = False  # weights are rounded so that errors cancel on the calibration's prompts (8 bits)
    correct: bool = False  # add what rounding takes from the mean last hidden state of the calibration's prompts
    tail: int = 0  # a document's last tokens whose activations have 16 bits all the same, where they are by token

    def __post_init__(self) -> None:
        if self.weights not in (0, 4, 8):
            raise InputError(f"weights of {self.weights} bits; 0 (float32), 4 and 8 are possible")
        if self.activations not in ACTIVATIONS:
            raise InputError(f"activations '{self.activations}'; possible are {', '.join(ACTIVATIONS)}")
        if self.prefix not in PREFIXES:
            raise InputError(f"prefix '{self.prefix}'; possible are {', '.join(PREFIXES)}")
        if self.rotate not in ROTATIONS:
            raise InputError(f"rotation '{self.rotate}'; possible are {', '.join(ROTATIONS)}")
        if self.activations != "float" and self.weights != 8:
            raise InputError("8-bit activations need 8-bit weights")
        if not 0 <= self.tail <= LARGEST_TAIL or (self.tail and self.activations != "token"):
            raise InputError(f"a tail of {self.tail} tokens; 0 to {LARGEST_TAIL} are possible, by token only above 0")
        for name in ("smooth_norms", "smooth_down"):
            strength = getattr(self, name)
            if not 0 <= strength <= 1 or (strength and self.weights != 8):
                raise InputError(f"{name} is {strength}; it must be from 0 to 1, and only for 8-bit weights above 0")
        if self.fit and (self.weights != 8 or self.smooth_down):
            raise InputError("only 8-bit weights that prefix and documents share can be fitted")
        if self.correct and not self.weights:
            raise InputError("only rounded weights have something to correct")
        if self.smooth_down and (self.activations != "static" or self.down_block):
            raise InputError("smooth_down needs static scales and no rotation at run time")
        for block in (self.norm_block, self.down_block):
            if block & (block - 1):
                raise InputError(f"a rotation in blocks of {block}; it must be a power of two, or 0")
        if self.norm_block and self.activations == "static":
            raise InputError("calibrated ranges are of values that are not turned: norm_block must be 0")

    @property
    def is_calibrated(self) -> bool:
        """Whether prompts are run to find ranges."""
        return self.activations == "static" or self.smooth_norms > 0 or self.fit or self.correct

    def describe(self) -> dict[str, str]:
        """Return the recipe as text, for the manifest."""
        return {key: str(value) for key, value in asdict(self).items()}


RECIPES = {
    "fp32": Recipe(),
    "int8": Recipe(
        weights=8,
        activations="token",
        prefix="weights",
        rotate="heads",
        norm_block=64,
        down_block=512,
        smooth_norms=0.65,
        fit=True,
        correct=True,
        tail=8,
    ),
    "int4": Recipe(weights=4, prefix="same"),
}
