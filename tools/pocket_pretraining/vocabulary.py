"""The words of the pretraining corpus: lists, topics and sentences of school. Makes no samples."""

import re
from collections.abc import Iterable

from lora_mm.pocket import tables

THINGS = tables.split_words("ball box cup hat bag kite sock drum sled vase rug fan jug pen mask toy bow bead tile cube")
TINTS = tuple(tables.COLOURS)
PLACES = ["shelf", "table", "floor", "bed", "roof", "wall", "step", "desk", "bench", "mat"]
KINDS = {
    "fruit": ["apple", "pear", "plum", "grape", "lemon", "peach", "melon", "cherry", "mango", "fig"],
    "tool": ["saw", "drill", "axe", "rake", "spade", "wrench", "chisel", "file", "pliers", "shovel"],
    "toy": ["doll", "kite", "puzzle", "marble", "yoyo", "sled", "teddy", "blocks", "rattle", "top"],
    "vehicle": ["van", "truck", "tram", "bus", "train", "taxi", "tractor", "scooter", "jeep", "cart"],
    "garment": ["hat", "scarf", "glove", "sock", "dress", "shirt", "skirt", "vest", "belt", "cap"],
    "room": ["kitchen", "attic", "cellar", "hall", "bedroom", "office", "lobby", "pantry", "garage", "studio"],
    "drink": ["cocoa", "cider", "punch", "soda", "cola", "broth", "nectar", "ale", "mead", "brew"],
    "sport": ["tennis", "hockey", "rugby", "golf", "judo", "rowing", "skating", "boxing", "cricket", "polo"],
    "metal": ["iron", "copper", "zinc", "tin", "lead", "nickel", "silver", "brass", "steel", "bronze"],
    "dance": ["waltz", "tango", "polka", "rumba", "samba", "salsa", "jive", "ballet", "foxtrot", "mambo"],
    "job": ["baker", "farmer", "nurse", "pilot", "tailor", "miner", "judge", "cook", "sailor", "clerk"],
    "tree": ["oak", "elm", "pine", "birch", "maple", "cedar", "willow", "poplar", "fir", "alder"],
    "month": ["January", "April", "June", "July", "August", "March", "October", "December", "November", "February"],
    "relative": ["aunt", "uncle", "cousin", "nephew", "niece", "sister", "brother", "mother", "father", "grandson"],
    "dish": ["pizza", "stew", "salad", "curry", "pasta", "omelet", "risotto", "pancake", "burger", "pudding"],
    "flower": ["tulip", "lily", "iris", "poppy", "violet", "orchid", "dahlia", "peony", "crocus", "aster"],
    "weapon": ["sword", "spear", "arrow", "dagger", "cannon", "rifle", "lance", "sling", "catapult", "musket"],
    "shape": ["circle", "square", "triangle", "oval", "diamond", "star", "hexagon", "cone", "pyramid", "spiral"],
}
TOPICS = {
    "food": (
        "{} ate a plate of {dish}.", "{} drank some {drink} with the {fruit}.", "{} put a {fruit} into the {dish}.",
        "The {dish} of {} was too hot.", "{} likes {dish} more than {fruit} pie.",
    ),
    "work": (
        "{} is a {job} and starts at seven.", "The {job} paid {} for the week.", "{} wants to be a {job}.",
        "{} used the {tool} all day.", "The new {job} asked {} for a {tool}.",
    ),
    "play": (
        "{} won the game of {sport}.", "{} lost a {toy} and cried.", "{} trains for {sport} in {month}.",
        "The {toy} of {} has a hole.", "{} danced a {dance} with the {relative}.",
    ),
    "family": (
        "The {relative} of {} came home.", "{} wrote to the {relative} in {month}.",
        "{} has a {relative} and a {relative}.",
        "{} looks like the {relative}.", "The {relative} hugged {}.",
    ),
    "travel": (
        "{} took the {vehicle} to town.", "The {vehicle} left without {}.", "{} missed the {vehicle} in {month}.",
        "{} slept in the {vehicle}.", "{} drove a {vehicle} through the snow.",
    ),
    "garden": (
        "{} planted a {flower} under the {tree}.", "The {tree} of {} lost its leaves.", "{} cut a {flower} in {month}.",
        "{} watered the {flower}.", "A {tree} fell on the fence of {}.",
    ),
}  # fmt: skip
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_SCHOOL = (
    "The wind blows from the north|Birds fly south in the fall|The sun comes up in the east|"
    "The sun goes down in the west|Two magnets can attract or repel each other|"
    "The magnetic force between two magnets can be strong or weak|Stir the solution|"
    "The concentration of salt in sea water is higher than in a lake|A particle is very small|"
    "The temperature of the sample is high|Read the thermometer|The thermometer shows the temperature of the air|"
    "A food web shows which organism eats another organism|Most organisms eat other organisms|"
    "An island is land in the sea|Look at the map of the state|Which of these is farthest away|"
    "The weather is cold today|The climate of the desert is hot and dry|It rained last night|"
    "It usually snows each winter|A gene can have two alleles|The allele for black hair is dominant|"
    "The genotype and the phenotype of the cow are known|The trait is inherited from a parent|"
    "An acquired trait is learned or comes with time|The price of bread went up|Supply went down|"
    "The demand for umbrellas is high when it rains|A good is something you can buy|"
    "A service is work that one person does for another|Select the better estimate|Complete the sentence|"
    "Read the passage|Compare the pairs|Think about the following statement|The statement is true|"
    "This one is false|The tense of a verb tells when something happens|The past, the present and the future|"
    "A question ends with a question mark|A declarative sentence tells something|"
    "An interrogative sentence asks something|An imperative sentence gives a command|"
    "An exclamatory sentence shows feeling|Her hair is like silk|He is as busy as a bee|"
    "The leaves danced in the wind|I told you a million times|A simile compares two things|"
    "Personification gives human traits to things|Hyperbole says more than is true|"
    "Matter can be a solid, a liquid or a gas|Dear Ms. Allen, thank you for the letter|"
    "More people want to buy it|The shops sold more this year|The graph shows how many were sold|"
    "Neither of the samples is the same|The average speed of the particles is higher|"
    "One pair is stronger than the other pair|Their strength is the same|Based on the arrows|"
    "A mammal, a bird, a fish and a reptile are animals|The arrow points to the animal that eats|"
    "The town is on the island|A pupil reads a hint|People trade goods|The figure of speech is used in the text|"
    "Degrees are written °F or °C, such as 20°C|How many degrees are there, 40°C or 60°C|Water is ice at 0°C|"
    "It is hot at 80°C|Solution A is clear, Solution B is not|A solution is made of water and a solute|"
    "Sample A is pure, sample B is not|The concentrations of the solutions are not alike|"
    "Pair 1 is on top and Pair 2 is below|Each magnet has two poles, and the poles have colors|"
    "Unlike poles pull, like poles push|Magnets that are far apart feel a weaker force|"
    "The magnets are placed as shown in the picture|The model shows the motion of balls|"
    "The diagrams show two samples of air|The average speed of the particles in it is low|"
    "A comet has a trail, a fox has a tail|Neither of them is right; both are wrong|"
    "There are two jars of equal volume, and one holds more liters than the other|"
    "Cups hold milliliters, and a ruler shows centimeters|A field is many meters wide, a road many kilometers long|"
    "The islands lie to the north, the south, the east and the west|The island farthest from here is the green island|"
    "The most and the least are the two ends of a list|The red shop earned more money from its sales|"
    "The blue shop and the yellow shop are in the city|The overall demand was low and the overall supply was high|"
    "Everyone in town wants to go to the city|Nobody wants to wait any more|Many new farms grow fruit now|"
    "Half of the old farms have closed|Fewer and fewer people sell it|It has become cheap to make and costly to buy|"
    "A famous singer sings on Monday|The famous man laughed at me and praised you|The prices probably went down|"
    "The demand probably went up|What happened to the supply is in the news|The child reads the news|"
    "I waited forever and cried|He could eat all of it|The bag weighs a ton|It costs a thousand or a million|"
    "The feet and the hands are cold as ice|The voice is clear as a bell|He runs, swims and sleeps well|"
    "The waves kissed the stone|The old door groaned|The sun smiled and the clock told the time|"
    "The wind called and blew|My shoes are killing me|The city never sleeps|You look busy, said the whole group|"
    "She runs like a horse and sings like a bird|The leaves are like gold|The text uses a simile|"
    "Hyperbole and personification are figures of speech|A simile says what something is like|"
    "Declarative, interrogative, imperative and exclamatory are words for sentences|"
    "Past tense, present tense and future tense are words for verbs|Use this information|"
    "The passage is about the weather|The passage below is not about the climate|They describe the sky|"
    "Thick fog lay over the town|There was a storm on Friday, and it hailed|A warm breeze blew this morning|"
    "It is raining this afternoon|The wind was strong yesterday|In the winter snow falls|"
    "Summers are mild and sunny, winters are dry|It often rains in spring|The season is long|"
    "On average the year is dry|Most years have all kinds of weather|An allele is passed down by the parents|"
    "The allele for horns is recessive|The gene is shown by letters|Is the trait inherited or acquired|"
    "The goat has horns, the horse a mane|The fur of the cat is pale, its ears are curled|"
    "An animal eats a plant|The organism in the food web eats the grass|Where does the matter go|"
    "A liquid can be poured, a solid can be held, a gas cannot be seen|Which goods and which services do you want|"
    "Select the best|Will they repel or attract|It was neither, and neither of them won|"
    "All people use their hands where they can|The grass grew|A hyperbole says too much|Do not do that|Any will do"
)
SCHOOL = tuple(f"{line}." for line in _SCHOOL.split("|"))
"""Sentences that add the words of school to the vocabulary."""

_LISTS: tuple[Iterable[str], ...] = (
    tables.NAMES, tables.COLOURS, tables.GOODS, tables.SERVICES, tables.SOLIDS, tables.LIQUIDS, tables.GASES,
    tables.INHERITED, tables.ACQUIRED, tables.WARES, tables.CITIES, tables.PETS, tables.CREATURES,
    *tables.ANIMALS.values(), *tables.LENGTHS.values(), *tables.VOLUMES.values(),
    *(gene[3:] for gene in tables.GENES), SCHOOL,
)  # fmt: skip
_VERBS = [form for verb, _ in tables.ACTIONS for form in (verb, tables.base_form(verb), tables.past_tense(verb))]
TABLE_WORDS = tuple(
    dict.fromkeys(
        word for entries in (*_LISTS, _VERBS) for entry in entries for word in re.findall(r"[^\W\d_]+", entry)
    )
)
"""Every word of the pocket world's tables and of ``SCHOOL``."""

FIRST_WORDS = (*THINGS, *TINTS, *PLACES, *NUMBERS, *KINDS["fruit"], *KINDS["tool"], *KINDS["vehicle"])
"""Words for learning letters.

With a thousand words instead of these eighty, letters stay at chance for 350 steps.
"""
WORDS = tuple(dict.fromkeys([*FIRST_WORDS, *(w for kind in KINDS.values() for w in kind), *TABLE_WORDS]))
"""All words. A word that pretraining never shows keeps an untrained embedding, which no adapter can use."""
MARKS = tuple(x + y for big in "BHFSMT" for x, y in ((big, big), (big, big.lower()), (big.lower(),) * 2))
"""Pairs of letters: BB, Bb, bb, HH, …"""
