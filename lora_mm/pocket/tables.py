"""Words that the pocket world and the pretraining corpus speak of, as plain tables. Knows no question, no picture."""

import re
from collections.abc import Iterable


def words(text: str) -> tuple[str, ...]:
    """Words parted by blanks."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Phrases parted by commas."""
    return tuple(phrase.strip() for phrase in text.split(","))


NAMES = words(
    "Tom Mona Katy Ben Lena Omar Ruth Ivan Nora Hugo Dana Eli Rosa Sam Tara Will Jack Amy Leo Kim Ana Bill "
    "Cora Dan Emma Finn Gina Hal Ida Joe Kate Lou Mia Ned Olga Paul Rita Sid Tess Vera"
)

COLOURS = {
    "red": (214, 40, 40),
    "blue": (36, 82, 212),
    "green": (38, 150, 60),
    "yellow": (246, 208, 40),
    "purple": (136, 52, 176),
    "orange": (244, 132, 24),
    "black": (30, 30, 30),
    "white": (250, 250, 250),
}

ANIMALS = {
    "mammal": words("dog cat horse cow wolf bear lion mouse goat deer rabbit fox whale bat"),
    "bird": words("hawk owl duck goose robin crow eagle swan parrot penguin ostrich gull heron stork"),
    "fish": words("trout salmon shark carp eel tuna cod perch pike herring ray bass seahorse catfish"),
    "reptile": words(
        "snake lizard turtle gecko cobra iguana tortoise crocodile python viper alligator boa skink adder"
    ),
}

GOODS = words("apple chair book coat lamp shirt table bicycle hammer kettle sweater pencil radio loaf basket carpet")
SERVICES = phrases(
    "haircut, car wash, piano lesson, taxi ride, house cleaning, dog walk, eye test, swimming class, "
    "bus ride, garden clearing, window cleaning, math lesson, phone repair, pet sitting, boat tour, "
    "shoe repair"
)
SOLIDS = words("rock spoon brick coin hammer plate nail ring bell key stone cup")
LIQUIDS = phrases("milk, rain, tea, juice, lemonade, ink, vinegar, olive oil, coffee, sea water, soup broth, syrup")
GASES = phrases(
    "steam in a pot, the air in a tire, the air in a balloon, helium in a tank, the air in a bubble, "
    "the air in a flute, oxygen in a tank, the air in a soccer ball"
)
LENGTHS = {
    "centimeters": phrases(
        "a pencil, a spoon, a shoe, a fork, a toothbrush, a crayon, a feather, a banana, a candle, a comb"
    ),
    "meters": phrases(
        "a bus, a garden, a swimming pool, a truck, a hallway, a boat, a train car, a whale, a bridge, a tall tree"
    ),
    "kilometers": phrases(
        "a river, a highway, a bicycle race, a train trip, a coast, a mountain range, a bus route, a canal, "
        "a desert, a long walk"
    ),
}

VOLUMES = {
    "milliliters": phrases(
        "a spoon, a test tube, an egg cup, a perfume bottle, an eye dropper, a thimble, a walnut shell, "
        "a nail polish bottle, a tea cup, a medicine cup"
    ),
    "liters": phrases(
        "a bathtub, a bucket, a fish tank, a kitchen sink, a soup pot, a water barrel, a rain barrel, "
        "a watering can, a wading pool, a gasoline tank"
    ),
}

INHERITED = phrases(
    "brown eyes, curly hair, freckles, long toes, dimples, straight hair, red hair, blue eyes, wide feet, "
    "small ears, green eyes, dark skin, thick hair, a pointed chin"
)
ACQUIRED = phrases(
    "a scar on the knee, pierced ears, a painted wall, dyed hair, a love of chess, a library card, "
    "a sunburn, a broken arm, a pen pal, a clean room, a driving license, a gold medal, short nails, "
    "a new hat"
)

PRESENT = (
    "prints,prints her name|bakes,bakes bread|paints,paints a fence|plants,plants a bean|opens,opens the window|"
    "cleans,cleans the desk|cooks,cooks rice|visits,visits a friend|washes,washes the car|kicks,kicks the ball|"
    "climbs,climbs the hill|counts,counts the coins|mails,mails a card|packs,packs a bag|waters,waters the tree|"
    "picks,picks a plum|fixes,fixes the gate|calls,calls the shop|plays,plays the drum|carries,carries the box"
)


def conjugate_plain(verb: str) -> str:
    """The plain form of a verb of the table: ``carries`` → ``carry``."""
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if verb.endswith(("shes", "xes")) else verb[:-1]


def past(verb: str) -> str:
    """The past form of a verb of the table: ``carries`` → ``carried``."""
    base = conjugate_plain(verb)
    stem = base[:-1] + "i" if base.endswith("y") and base[-2] not in "aeiou" else base.removesuffix("e")
    return stem + "ed"


WARES = words("bread cheese honey soap candles cards flowers tickets plums shoes")
CITIES = words("Oslo Lima Cairo Paris Quito Delhi Rome Perth Boston Nome")
PETS = words("Daisy Bambi Rex Luna Milo Bella Coco Max Ruby Toby Lucky Ginger")
GENES = (
    ("cow", "B", "b", "a black coat", "a red coat"), ("goat", "H", "h", "horns", "no horns"),
    ("rabbit", "F", "f", "long fur", "short fur"), ("cat", "S", "s", "straight ears", "curled ears"),
    ("horse", "M", "m", "a dark mane", "a pale mane"), ("mouse", "T", "t", "a long tail", "a short tail"),
)  # fmt: skip
"""Animal, dominant and recessive allele, what each of them shows as."""

CREATURES = words("grass beetle mouse snake hawk fish frog rabbit fox berry")

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
"""Plain sentences that bring words of school to the vocabulary."""

_LISTS: tuple[Iterable[str], ...] = (
    NAMES, COLOURS, GOODS, SERVICES, SOLIDS, LIQUIDS, GASES, INHERITED, ACQUIRED, WARES, CITIES, PETS, CREATURES,
    *ANIMALS.values(), *LENGTHS.values(), *VOLUMES.values(), *(gene[3:] for gene in GENES), SCHOOL,
)  # fmt: skip
_VERBS = [
    form for verb in PRESENT.split("|") for v in (verb.split(",")[0],) for form in (v, conjugate_plain(v), past(v))
]
VOCABULARY = tuple(
    dict.fromkeys(
        word for entries in (*_LISTS, _VERBS) for entry in entries for word in re.findall(r"[^\W\d_]+", entry)
    )
)
"""Every word of the tables."""
