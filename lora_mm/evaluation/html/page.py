"""The report: one HTML page about a run or an evaluation, from the headline to single answers. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.atomic import write_atomically
from lora_mm.data.example import Example
from lora_mm.evaluation.compare import Comparison
from lora_mm.evaluation.html.charts import Line, render_heat_map, render_interval_bars, render_line_chart
from lora_mm.evaluation.html.gallery import NamedAnswers, make_gallery
from lora_mm.evaluation.score import Score
from lora_mm.evaluation.tables import list_columns, list_notes, list_rows
from lora_mm.html.render import render_template


@dataclass(frozen=True, slots=True)
class Curve:
    """How to draw a value of the Trainer's log.

    Attributes:
        title: title of the chart.
        unit: appended to values.
        factor: converts the logged value to the unit.
        smooth: whether to draw a running mean over it.
    """

    title: str
    unit: str = ""
    factor: float = 1.0
    smooth: bool = False


CURVES: Mapping[str, Curve] = {
    "loss": Curve("Loss", smooth=True),
    "learning_rate": Curve("Learning rate"),
    "samples_per_second": Curve("Samples per second", smooth=True),
    "memory_bytes": Curve("Memory", " GiB", 2**-30),
    "grad_norm": Curve("Gradient norm", smooth=True),
    "expert_balance": Curve("Expert balance (1 is even)", smooth=True),
}
"""Key in the Trainer's log → its chart, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of the page.

    Attributes:
        title, summary: name and summary of the recipe.
        facts: name → value, in a strip below the title.
        table: title of the table of scores.
        scores: name of the row → score.
        examples: the questions.
        answers: the model's answers, in the order of ``examples``.
        baseline: another model's answers, shown beside them.
        comparison: comparison of the two models.
        history: the Trainer's log; each entry has a ``step``.
        routing: where the adapter routes tokens.
        recipe: the recipe as YAML.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    table: str
    scores: Mapping[str, Score]
    examples: Sequence[Example]
    answers: NamedAnswers
    baseline: NamedAnswers | None = None
    comparison: Comparison | None = None
    history: Sequence[Mapping[str, float]] = ()
    routing: Sequence[RoutingMap] = ()
    recipe: str = ""

    def write(self, file: Path) -> None:
        """Write the page to a file.

        Raises:
            LoraMMError: the file cannot be written.
        """
        write_atomically(file, self.html())

    def html(self) -> str:
        """Render the document; it loads nothing from the network."""
        sentences = self.comparison.sentences() if self.comparison else []
        return render_template(
            "evaluation/html/templates/report.html",
            title=self.title,
            summary=self.summary,
            facts=self.facts,
            bars=self._render_bars(),
            table={
                "title": self.table,
                "columns": list_columns(self.scores),
                "rows": list_rows(self.scores),
                "highlighted": self.answers.name,
            },
            notes=[*sentences, *list_notes(self.scores)],
            charts=self._render_curves(),
            routing=[_draw_routing(routing_map) for routing_map in self.routing],
            gallery=make_gallery(self.examples, self.answers, self.baseline),
            recipe=self.recipe,
        )

    def _render_bars(self) -> Markup:
        """Draw the headline figure of every row that has one."""
        headline = next(iter(self.scores.values())).headline_column
        figures = [(name, score.columns[headline]) for name, score in self.scores.items()]
        bars = [(name, figure.value, figure.interval) for name, figure in figures if figure.value is not None]
        if not bars:
            return Markup()
        scale = 100.0 if all(value <= 100 for _, value, _ in bars) else 200.0  # MME's score goes up to 200
        return render_interval_bars(bars, highlighted=self.answers.name, scale=scale)

    def _render_curves(self) -> list[Markup]:
        """Draw the curves that have points."""
        charts = []
        for key, curve in CURVES.items():
            points = [(entry["step"], entry[key] * curve.factor) for entry in self.history if key in entry]
            charts.append(render_line_chart(Line(curve.title, points, curve.unit, curve.smooth)))
        return [chart for chart in charts if chart]


def _draw_routing(routing_map: RoutingMap) -> dict[str, str]:
    experts = [len(weights) for weights in routing_map.weights[0]]
    groups = list(zip(routing_map.modalities, experts, strict=True))
    cells = [[weight for weights in layer for weight in weights] for layer in routing_map.weights]
    return {
        "title": routing_map.title,
        "meaning": routing_map.meaning,
        "heat_map": render_heat_map(groups, [str(layer) for layer in routing_map.layers], cells),
    }
