"""How llama.cpp is compiled anew where it was compiled wrongly for this machine."""

from __future__ import annotations

from pairgrade.environment import package_version
from pairgrade.hardware import cpu_features


def compiling(arguments: str) -> str:
    """Return the command that compiles llama.cpp anew, with these arguments for cmake."""
    version = package_version("llama-cpp-python")
    return f"CMAKE_ARGS={arguments} pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python=={version}"


def illegal_instruction() -> str:
    """Say why llama.cpp ends its process by SIGILL, and what to do.

    With AMX it does so where the compiler lets it leave out most of the tiles' configuration, as GCC 12 does
    (https://github.com/ggml-org/llama.cpp/pull/26954); ``make`` in a checkout compiles it rightly.
    """
    if "amx_int8" not in cpu_features():
        return f"llama.cpp was compiled for another processor; compile it for this one: {compiling('-DGGML_NATIVE=ON')}"
    return (
        "llama.cpp was compiled for another processor, or by a compiler that gets its AMX wrong (GCC 12, say). Compile "
        "it anew, in a checkout of pairgrade by `pip cache remove llama-cpp-python` and `make clean demo`, or anywhere "
        f"without AMX: {compiling('-DCMAKE_CXX_FLAGS=-mno-amx-int8')}"
    )
