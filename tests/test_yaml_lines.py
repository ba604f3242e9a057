"""Settings in YAML: what is refused, and the line that messages name. Suites and lists of devices test the rest."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from bibench.yaml_lines import YamlError, explain, line_of, parse


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sizes: tuple[int, ...]


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: Part
    name: str = ""


def said(text):
    content, root = parse(text, "x.yaml", "part")
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(content)
    return explain(caught.value, root, "x.yaml", lambda loc: (Whole if len(loc) == 1 else Part).model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\npart:\n  size: [1]", "x.yaml, line 2: 'part.sizes' is missing"),
        ("name: a\npart:\n  sizes: [1]\n  size: 2", "x.yaml, line 4: unknown key 'part.size'; did you mean 'sizes'?"),
        ("part: {sizes: [1,\n a]}", "x.yaml, line 2: 'part.sizes.1' is 'a': Input should be a valid integer"),
        ("part: {sizes: 1}", "x.yaml, line 1: 'part.sizes' is 1: expected a list, such as [a, b]"),
        ("\npart: 1", "x.yaml, line 2: 'part' is 1: expected a mapping, such as {key: value}"),
    ],
)
def test_what_is_wrong_has_its_line(text, message):
    assert said(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "x.yaml, line 1: not valid YAML: "),
        ("a: 1\nb: !!python/object/apply:os.getcwd []", "x.yaml, line 2: not valid YAML: "),
        ("a: 1\nb: {c: 1, c: 2}", "x.yaml, line 2: 'c' is already given in line 2"),
        ("[1]", "x.yaml: expected a mapping with the keys part"),
        ("", "x.yaml: expected a mapping with the keys part"),
    ],
)
def test_what_is_no_mapping(text, message):
    with pytest.raises(YamlError, match=r"^x\.yaml") as caught:
        parse(text, "x.yaml", "part")
    assert str(caught.value).startswith(message)


def test_an_alias_of_itself_ends():
    content, root = parse("a: &a [*a]\nb: 1", "x.yaml", "a")
    assert content["a"][0] is content["a"]
    assert [line_of(root, loc) for loc in (("a", 0, 0), ("b",), ("none", 3))] == [1, 2, 1]
