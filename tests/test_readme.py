"""The README's table of families and methods says what the rows of the code say."""

from benchmarks.families import BEGIN, END, README
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.models.families import FAMILIES
from tests.helpers.bases import LACKING


def test_the_table_of_families_is_that_of_the_code() -> None:
    written = README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines()]
    head, _, *families = rows
    told = {row[0].strip("`"): row for row in families}
    again = "run `python -m benchmarks.families`"
    assert head[1:-1] == [f"`{method}`" for method in METHODS], again
    assert list(told) == list(FAMILIES), again
    for family, row in FAMILIES.items():
        expected = ["✓" if find_obstacle(method, row) is None else "–" for method in METHODS]
        assert told[family][1:-1] == expected, f"{family}: {again}"
        through = told[family][-1]
        assert through.startswith("model level only") is (family in LACKING), f"{family}: {again}"
        assert ("videos" in through) is ("video" in row.placeholders), f"{family}: {again}"
