"""``python -m pairgrade.cli`` is the ``pairgrade`` command."""

from pairgrade.cli import main

main()
