from pathlib import Path

import pytest

from pairgrade import Grade, Rubric, RubricError
from pairgrade.rubric import BUILT_IN, Example
from pairgrade.rubric_file import parse_rubric, rubric_toml

TWO = "[[grades]]\ngrade=0\nlabel='no'\nmeaning='bad'\n[[grades]]\ngrade=1\nlabel='yes'\nmeaning='good'\n"
HEAD = "name='x'\ninstruction='Do it.'\n"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_rubrics_parse(name: str) -> None:
    rubric = Rubric.load(name)
    assert rubric.name == name
    assert rubric.values == tuple(range(len(rubric.grades)))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(HEAD + TWO + "[[examples]]\nquery='q'\ndocument='d'\ngrade=1\n")
    rubric = Rubric.load(path)
    assert rubric.labels == ("no", "yes")
    assert rubric.examples[0].grade == 1


@pytest.mark.parametrize("name", ["no-such", "a" * 5000, "a\0b"])
def test_a_rubric_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(RubricError, match="it is neither a file nor one of the built-in"):
        Rubric.load(name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_rubric_is_written_as_the_toml_it_was_read_from(name: str) -> None:
    rubric = Rubric.load(name)
    assert parse_rubric(rubric_toml(rubric), "again") == rubric


def test_odd_characters_come_back_from_toml() -> None:
    odd = '"quoted" \\\\ \\u0041 \t\x7f\x01 half\u00a0½ 🙂\r\n[[grades]]'
    grades = (Grade(-1, odd, "'" + odd), Grade(7, "b", "'''"))
    rubric = Rubric(odd, f"x{odd}", grades, odd, odd, odd, odd, (Example(odd, odd, 7), Example("q", "d", -1)))
    assert parse_rubric(rubric_toml(rubric), "again") == rubric


def test_grades_are_put_in_ascending_order() -> None:
    swapped = HEAD + "[[grades]]\ngrade=3\nlabel='b'\nmeaning='m'\n[[grades]]\ngrade=1\nlabel='a'\nmeaning='m'\n"
    assert parse_rubric(swapped, "s").values == (1, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not valid TOML"),
        (HEAD + TWO + "[colour]\nx=1\n", "unknown key 'colour'"),
        ("name='x'\n" + TWO, "instruction: field required"),
        (HEAD + TWO.replace("grade=0", "grade='0'"), "grades.0.grade"),
        (HEAD + TWO.replace("grade=1", "grade=0"), "distinct and ascending"),
        (HEAD + TWO.replace("'yes'", "'no'"), "label words must be distinct"),
        (HEAD + TWO.split("[[grades]]\ngrade=1")[0], "at least 2"),
        (HEAD + TWO + "[[examples]]\nquery='q'\ndocument='d'\ngrade=7\n", "an example has grade 7"),
        ("cue=''\n" + HEAD + TWO, "cue"),
    ],
)
def test_what_is_wrong_with_a_rubric_is_said(text: str, said: str) -> None:
    with pytest.raises(RubricError, match=said):
        parse_rubric(text, "file.toml")


def test_an_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(RubricError, match="trec, binary, esci"):
        Rubric.load("no-such")


def test_every_part_of_a_rubric_moves_its_digest() -> None:
    base = Rubric("n", "i", (Grade(0, "a", "m"), Grade(1, "b", "m")))
    other = [
        Rubric("n", "j", base.grades),
        Rubric("n", "i", base.grades, cue="Say: "),
        Rubric("n", "i", base.grades, document_header="Text: "),
        Rubric("n", "i", (Grade(0, "a", "m"), Grade(1, "b", "n"))),
    ]
    assert len({base.digest, *(r.digest for r in other)}) == 5
