"""Score tables: official order, counts where they differ, a dash for empty columns, the same in every form."""

import io
import json
from typing import Any

from rich.console import Console

from lora_mm.evaluation.scienceqa import OFFICIAL_COLUMNS
from lora_mm.evaluation.score import Score, Tally
from lora_mm.evaluation.tables import list_notes, scores_to_dict, scores_to_markdown, scores_to_table


def score(
    correct: float, total: int, *, images: int | None = None, is_expectation: bool = False, **counts: Any
) -> Score:
    columns = {name: Tally(correct, total, is_expectation) for name in OFFICIAL_COLUMNS}
    return Score({**columns, "IMG": Tally(0, images) if images is not None else Tally(correct, total)}, **counts)


SCORES = {
    "random choice": score(400.5, 1000, is_expectation=True),
    "frozen base": score(421, 1000, unparsed=37),
    "adapter": score(1000, 1000, unparsed=0),
}


def printed(scores: dict[str, Score], **options: Any) -> str:
    output = io.StringIO()
    Console(file=output, **{"width": 80, **options}).print(scores_to_table(scores))
    return output.getvalue()


def test_the_table_fits_eighty_columns_and_keeps_the_order() -> None:
    lines = printed(SCORES).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "AVG"]
    assert lines[2].split() == ["problems", *["1,000"] * 9]
    assert lines[3].split() == ["random", "choice", *["40.05"] * 9]
    assert lines[4].split() == ["frozen", "base", *["42.10"] * 9]
    assert lines[5].split() == ["adapter", *["100.00"] * 9]
    assert "Unparsed answers, counted as wrong: frozen base 37, adapter 0." in "\n".join(lines[6:])


def test_an_empty_column_shows_a_dash_and_null() -> None:
    scores = {"adapter": score(3, 4, images=0)}
    assert "–" in printed(scores)
    assert scores_to_markdown(scores).splitlines()[3].split(" | ")[5] == "–"
    empty = {"accuracy": None, "correct": 0, "total": 0, "interval": None}
    assert scores_to_dict(scores)["adapter"]["columns"]["IMG"] == empty


def test_counts_are_shown_again_where_they_differ() -> None:
    lines = printed({"one": score(1, 4), "two": score(1, 4), "three": score(1, 3)}).splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["problems", "one", "two", "problems", "three"]


def test_uneven_coverage_is_noted() -> None:
    [_, unparsed, coverage] = list_notes({"mine": score(1, 4, unparsed=0, missing=12, unknown=3)})
    assert "mine 0" in unparsed
    assert coverage == (
        "mine: not the official score. Problems without a prediction, not counted: 12; "
        "predictions for no problem of the split: 3."
    )
    assert list_notes({"random choice": score(1, 2, is_expectation=True)}) == []


def test_json_holds_the_tables_own_digits() -> None:
    values = json.loads(json.dumps(scores_to_dict(SCORES)))
    average = values["frozen base"]["columns"]["AVG"]
    assert average == {"accuracy": 42.1, "correct": 421, "total": 1000, "interval": [39.08, 45.18]}
    assert values["frozen base"]["unparsed"] == 37
    assert values["random choice"]["unparsed"] is None


def test_markdown_is_a_github_table() -> None:
    lines = scores_to_markdown({"a|b": SCORES["adapter"]}).splitlines()
    assert lines[0] == "| | NAT | SOC | LAN | TXT | IMG | NO | G1-6 | G7-12 | AVG |"
    assert lines[1] == "|---|" + "---:|" * 9
    assert lines[3] == "| a\\|b |" + " 100.00 |" * 9
    assert lines[5] == "95 % interval of NAT: a|b 99.6 to 100.0."
    assert lines[7] == "Unparsed answers, counted as wrong: a|b 0."


def test_no_escape_codes_where_there_is_no_terminal() -> None:
    assert "\x1b" not in printed(SCORES)
    assert "\x1b" in printed(SCORES, force_terminal=True, color_system="standard")


def test_labels_are_text_and_not_markup() -> None:
    assert "[red]x" in printed({"[red]x": SCORES["adapter"]})
