"""An optional package that cannot be imported: not there, or there and broken."""

from __future__ import annotations

from pairgrade.errors import MissingExtraError, ModelError, PairgradeError


def unusable(error: ImportError, feature: str, *packages: str, extra: str | None = None) -> PairgradeError:
    """Return what to raise where the import of a feature's packages failed.

    MissingExtraError where one of them is not installed; where it is, ModelError with the reason.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in packages:
        return MissingExtraError(feature, error.name.replace("_", "-"), extra)
    target = " ".join(packages).replace("_", "-")
    return ModelError(
        f"{feature} needs {' and '.join(packages)}, and the import fails ({error}); mend the installation: pip install "
        f"--force-reinstall --no-deps {target}. `pairgrade doctor` tells what works"
    )
