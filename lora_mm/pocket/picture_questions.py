"""The questions of the pocket world about pictures, in the style of ScienceQA: one function each."""

from __future__ import annotations

from random import Random

from lora_mm.pocket import tables
from lora_mm.pocket.problem import ProblemDraft, put_first
from lora_mm.pocket.scenes import Bars, Columns, Gaps, Jars, Spots, Stripes, Trails, Tube, Web


def magnets(rng: Random) -> ProblemDraft:
    """Do two magnets attract or repel? They repel if the facing poles have the same color."""
    scene = Bars.random(rng)
    answer, comparison = ("repel", "alike") if scene.same else ("attract", "different")
    return ProblemDraft(
        "Will these magnets attract or repel each other?",
        put_first(("attract", "repel"), answer),
        f"The poles that face each other are {comparison}. These magnets will {answer} each other.",
        "Two magnets are placed as shown. The two colors mark the two poles of a magnet.",
        scene,
        "Two bar magnets, one beside the other.",
    )


def concentration(rng: Random) -> ProblemDraft:
    """Which solution has more particles in the same volume? The jar with more dots, or neither."""
    scene = Jars.random(rng)
    neither = "neither; their concentrations are the same"
    answer = {"left": "Solution A", "right": "Solution B", "same": neither}[scene.more]
    return ProblemDraft(
        f"Which solution has a higher concentration of {scene.colour} particles?",
        put_first(("Solution A", "Solution B", neither), answer),
        f"In equal volumes, Solution A has {len(scene.left)} particles and Solution B {len(scene.right)}: {answer}.",
        f"The model shows Solution A and Solution B. Each {scene.colour} ball is one particle of solute.",
        scene,
        "Two beakers of the same size with colored particles.",
    )


DIRECTIONS = {"north": "top", "south": "bottom", "west": "left", "east": "right"}


def cardinal(rng: Random) -> ProblemDraft:
    """Which island is farthest in a direction? The one closest to that side of the map."""
    scene = Spots.random(rng)
    direction = rng.choice(tuple(DIRECTIONS))
    answer = scene.extreme(DIRECTIONS[direction])
    colours = [c for c, *_ in scene.spots if c != answer]
    return ProblemDraft(
        f"Which of these islands is farthest {direction}?",
        (f"the {answer} island", *(f"the {c} island" for c in rng.sample(colours, rng.randint(2, 3)))),
        f"Look for the side of the map that is {direction}. The {answer} island lies closest to that side.",
        "",
        scene,
        "A map of the sea with four islands.",
    )


def temperature(rng: Random) -> ProblemDraft:
    """Which gas is hotter? The sample with the longer trails, or neither."""
    scene = Trails.random(rng)
    neither = "neither; the samples have the same temperature"
    answer = {"left": "sample A", "right": "sample B", "same": neither}[scene.more]
    return ProblemDraft(
        "Compare the motion of the particles. Which sample has the higher temperature?",
        put_first(("sample A", "sample B", neither), answer),
        f"A longer trail means a higher speed, and a higher average speed a higher temperature: {answer}.",
        "The diagrams show two pure samples of gas. A trail shows the speed of a particle.",
        scene,
        "Two containers of gas particles with trails.",
    )


def food_web(rng: Random) -> ProblemDraft:
    """Which organism eats another? The one that the arrow from the other points to."""
    scene = Web.random(rng)
    names = [n for n, _ in scene.chain]
    eaten = rng.randrange(2)
    others = tuple(n for n in names if n not in (names[eaten], names[eaten + 1]))
    return ProblemDraft(
        f"Based on the food web, which organism eats the {names[eaten]}?",
        (names[eaten + 1], *others),
        f"An arrow leads from the {names[eaten]} to the {names[eaten + 1]}, which eats it.",
        "In this food web, an arrow shows where the matter goes when one organism eats another.",
        scene,
        "A food web of three organisms with arrows between them.",
    )


def magnet_pairs(rng: Random) -> ProblemDraft:
    """In which pair is the magnetic force stronger? In the pair with the smaller gap, or in neither."""
    scene = Gaps.random(rng)
    statements = {
        "bottom": "The magnetic force is stronger in Pair 1.",
        "top": "The magnetic force is stronger in Pair 2.",
        "same": "The strength of the magnetic force is the same in both pairs.",
    }
    return ProblemDraft(
        "Think about the force between the magnets in each pair. Which statement is true?",
        put_first(tuple(statements.values()), statements[scene.wider]),
        f"Magnets that are closer together pull each other with a stronger force. {statements[scene.wider]}",
        "The picture shows Pair 1 and, below it, Pair 2. All the magnets are alike.",
        scene,
        "Two pairs of magnets, one pair above the other.",
    )


def thermometer(rng: Random) -> ProblemDraft:
    """Which temperature does a thermometer show? That of the mark where the red liquid ends."""
    scene = Tube.random(rng)
    values = [f"{20 * n}°C" for n in range(5)]
    answer = values.pop(scene.level)
    return ProblemDraft(
        "Select the temperature shown by this thermometer.",
        (answer, *rng.sample(values, rng.randint(2, 3))),
        f"The marks stand for 0°C, 20°C, 40°C, 60°C and 80°C. The red liquid ends at {answer}.",
        "",
        scene,
        "A thermometer with five marks.",
    )


def graph(rng: Random) -> ProblemDraft:
    """Which shop earned the most or the least? The one with the tallest or the shortest bar."""
    scene = Columns.random(rng)
    ware = rng.choice(tables.WARES)
    word, which = rng.choice((("most", "tallest"), ("least", "shortest")))
    answer = scene.extreme(which)
    others = [c for c, _ in scene.columns if c != answer]
    return ProblemDraft(
        f"Based on the graph, which shop earned the {word} from {ware}?",
        (f"the {answer} shop", *(f"the {c} shop" for c in rng.sample(others, rng.randint(2, 3)))),
        f"The {answer} bar is the one that stands for the {word} money. So it is the {answer} shop.",
        "",
        scene,
        f"A bar graph of what four shops earned from {ware}.",
    )


QUARTERS = ("top left", "top right", "bottom left", "bottom right")


def upright_cloth(rng: Random) -> ProblemDraft:
    """Which of four cloths has vertical stripes? Visible at full size only."""
    scene = Stripes.random(rng)
    answer = QUARTERS[scene.upright]
    return ProblemDraft(
        "Four cloths are shown. Which one has stripes that run up and down?",
        put_first(QUARTERS, answer),
        f"The stripes of the {answer} cloth run up and down, the others' run across.",
        "",
        scene,
        "Four pieces of cloth with fine stripes.",
    )
