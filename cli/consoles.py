"""Where the commands print: results go to stdout as they are, progress to stderr."""

from __future__ import annotations

from rich.console import Console


def result_console(soft_wrap: bool = False) -> Console:
    """Make the console of a command's result: brackets in a name are no markup, numbers keep the text's colour.

    Args:
        soft_wrap: Leave long lines to the terminal, for text that is to be copied.
    """
    return Console(highlight=False, markup=False, soft_wrap=soft_wrap)


def progress_console() -> Console:
    """Make the console of progress and notices, which must not mix with a result that is piped on."""
    return Console(stderr=True)
