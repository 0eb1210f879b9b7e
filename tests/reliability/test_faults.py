"""The table of deliberate faults fits the sources: each is found where it says, and its tests are there.

``python tests/reliability/mutate.py`` puts the faults in and runs the tests; that takes an hour.
"""

from faults import ROOT, all_tests, load_faults


def test_every_fault_has_its_place_and_its_tests() -> None:
    faults, known = load_faults(), set(all_tests())
    assert len(faults) > 150
    for fault in faults:
        fault.applied((ROOT / fault.source).read_text(encoding="utf-8"))
        assert fault.tests, fault.name
        assert set(fault.tests) <= known, fault.name
    assert len({(fault.source, fault.old, fault.new) for fault in faults}) == len(faults)


def test_every_test_has_a_fault_that_it_notices() -> None:
    noticing = {test for fault in load_faults() for test in fault.tests}
    assert sorted(set(all_tests()) - noticing) == []
