"""How an exported graph multiplies: what is rounded, and what is done before so that rounding costs little."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pairgrade.errors import InputError

ACTIVATIONS = ("float", "static", "token", "tensor")
PREFIXES = ("same", "weights", "float")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize. The defaults of each name in ``RECIPES`` were chosen in docs/decisions/onnx-engine.md."""

    weights: int = 0  # bits; 0 leaves them as float32
    activations: str = "float"  # 8-bit: one calibrated scale a product, or scales taken from each token or batch
    prefix: str = "float"  # of the prefix graph: "same", its weights in 8 bits and activations in 16, or full precision
    rotate: bool = False  # norm gains folded; residual stream and value heads turned by random orthogonal matrices
    down_block: int = 0  # the largest block of the Hadamard rotation at run time before the down product; 0: none
    smooth: float = 0.0  # part of the down inputs' outliers that goes into its weights: 0 none, 1 all
    smooth_powers: bool = False  # smooth by powers of two: a prefix with 8-bit weights shares the up product's then
    seed: int = 0  # of the rotations

    def __post_init__(self) -> None:
        if self.weights not in (0, 4, 8):
            raise InputError(f"weights of {self.weights} bits; 0 (float32), 4 and 8 are possible")
        if self.activations not in ACTIVATIONS:
            raise InputError(f"activations '{self.activations}'; possible are {', '.join(ACTIVATIONS)}")
        if self.prefix not in PREFIXES:
            raise InputError(f"prefix '{self.prefix}'; possible are {', '.join(PREFIXES)}")
        if self.activations != "float" and self.weights != 8:
            raise InputError("8-bit activations need 8-bit weights")
        if not 0 <= self.smooth <= 1 or (self.smooth and (self.activations != "static" or self.down_block)):
            raise InputError(
                f"smoothing {self.smooth}; it must be from 0 to 1, and only static scales without a rotation at run "
                "time can be smoothed"
            )
        if self.down_block & (self.down_block - 1):
            raise InputError(f"a rotation in blocks of {self.down_block}; it must be a power of two, or 0")

    def describe(self) -> dict[str, str]:
        """Return the recipe as text, for the manifest."""
        return {key: str(value) for key, value in asdict(self).items()}


RECIPES = {
    "fp32": Recipe(),
    "int8": Recipe(weights=8, activations="static", prefix="weights", rotate=True, down_block=512),
    "int4": Recipe(weights=4, prefix="same"),
}
