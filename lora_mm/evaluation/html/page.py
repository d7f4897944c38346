"""The page: a run or a score from its headline down to single answers. Knows figures; measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.atomic import write_atomically
from lora_mm.data.example import Example
from lora_mm.evaluation.compare import Comparison
from lora_mm.evaluation.html.charts import Line, render_heat_map, render_interval_bars, render_line_chart
from lora_mm.evaluation.html.document import render_document
from lora_mm.evaluation.html.gallery import Answers, render_gallery
from lora_mm.evaluation.html.markup import Html, tag
from lora_mm.evaluation.report import list_columns, list_notes, list_rows
from lora_mm.evaluation.score import Score

_STYLE = Path(__file__).with_name("style.css")

# key in the Trainer's log → title, unit, factor, whether a running mean is drawn
_CURVES: Mapping[str, tuple[str, str, float, bool]] = {
    "loss": ("Loss", "", 1, True),
    "learning_rate": ("Learning rate", "", 1, False),
    "samples_per_second": ("Samples a second", "", 1, True),
    "memory_bytes": ("Memory", " GiB", 2**-30, False),
    "grad_norm": ("Gradient norm", "", 1, True),
    "expert_balance": ("Balance of experts (1 is even)", "", 1, True),
}


@dataclass(frozen=True, slots=True)
class Page:
    """What is shown.

    Attributes:
        title, summary: of the whole.
        facts: name → value, in a strip below.
        table: title of the table of scores.
        scores: its rows.
        examples: the questions.
        main: the answers shown in the gallery.
        against: those of another model, beside them.
        comparison: the paired test of the two.
        history: the Trainer's log.
        routing: where samples are routed.
        recipe: as YAML.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    table: str
    scores: Mapping[str, Score]
    examples: Sequence[Example]
    main: Answers
    against: Answers | None = None
    comparison: Comparison | None = None
    history: Sequence[Mapping[str, float]] = ()
    routing: Sequence[RoutingMap] = ()
    recipe: str = ""

    def write(self, file: Path) -> None:
        """Into one file.

        Raises:
            LoraMMError: it cannot be written.
        """
        write_atomically(file, self.html())

    def html(self) -> str:
        """The whole document; it asks nothing of any other place."""
        return render_document(self.title, _STYLE, tag("main", self._header(), self._scores(), self._training(),
                                                self._routing(), self._gallery(), self._recipe()))  # fmt: skip

    def _header(self) -> Html:
        facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in self.facts.items()]
        return tag("header", tag("h1", self.title), tag("p", self.summary, class_="summary"),
                   tag("dl", facts, class_="facts"))  # fmt: skip

    def _scores(self) -> Html:
        headline = next(iter(self.scores.values())).main
        figures = [(name, score.columns[headline]) for name, score in self.scores.items()]
        bars = [(name, figure.value, figure.interval) for name, figure in figures if figure.value is not None]
        scale = 100.0 if all(value <= 100 for _, value, _ in bars) else 200.0  # MME's score is of 200
        columns = list_columns(self.scores)
        rows = [
            tag("tr", tag("th", label, scope="row"), [tag("td", cell) for cell in cells],
                class_="counts" if counts else "main" if label == self.main.name else None)
            for label, cells, counts in list_rows(self.scores)
        ]  # fmt: skip
        head = tag("tr", tag("th", ""), [tag("th", name, scope="col") for name in columns])
        table = tag("table", tag("thead", head), tag("tbody", rows))
        said = [*(self.comparison.sentences() if self.comparison else []), *list_notes(self.scores)]
        return tag(
            "section",
            tag("h2", self.table),
            tag("div", render_interval_bars(bars, main=self.main.name, scale=scale), class_="headline")
            if bars
            else None,
            tag("div", table, class_="wide"),
            [tag("p", line, class_="note") for line in said],
        )

    def _training(self) -> Html | None:
        charts = [
            render_line_chart(
                Line(title, [(e["step"], e[key] * factor) for e in self.history if key in e], unit, smooth)
            )
            for key, (title, unit, factor, smooth) in _CURVES.items()
        ]
        charts = [chart for chart in charts if chart]
        return tag("section", tag("h2", "Training"), tag("div", charts, class_="charts")) if charts else None

    def _routing(self) -> Html | None:
        if not self.routing:
            return None
        figures = []
        for one in self.routing:
            columns = [(kind, len(one.weights[0][n])) for n, kind in enumerate(one.modalities)]
            cells = [[weight for kind in layer for weight in kind] for layer in one.weights]
            svg = render_heat_map(columns, [str(layer) for layer in one.layers], cells)
            caption = tag("figcaption", one.title, tag("span", one.meaning, class_="last"))
            figures.append(tag("figure", caption, tag("div", svg, class_="wide"), class_="routing"))
        about = "Rows are layers. Columns are experts, for each kind of sample; a row's weights for a kind sum to 1."
        return tag("section", tag("h2", "Routing"), tag("p", about, class_="note"),
                   tag("div", figures, class_="maps"))  # fmt: skip

    def _gallery(self) -> Html:
        about = "Every n-th question of each kind, in the order of the split; pictures are made small."
        return tag("section", tag("h2", "Answers"), tag("p", about, class_="note"),
                   render_gallery(self.examples, self.main, self.against))  # fmt: skip

    def _recipe(self) -> Html | None:
        if not self.recipe:
            return None
        return tag("section", tag("details", tag("summary", "Recipe"), tag("pre", self.recipe)), class_="recipe")
