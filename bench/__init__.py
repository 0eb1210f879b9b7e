"""Measurements: run one with ``python -m pairgrade.bench.NAME``."""
