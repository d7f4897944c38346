"""Word lists of the pocket world and of the pretraining corpus. Holds no questions and draws no pictures."""


def split_words(text: str) -> tuple[str, ...]:
    """Split a text at spaces."""
    return tuple(text.split())


def split_phrases(text: str) -> tuple[str, ...]:
    """Split a text at commas."""
    return tuple(phrase.strip() for phrase in text.split(","))


NAMES = split_words(
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
"""Color names to RGB values."""

ANIMALS = {
    "mammal": split_words("dog cat horse cow wolf bear lion mouse goat deer rabbit fox whale bat"),
    "bird": split_words("hawk owl duck goose robin crow eagle swan parrot penguin ostrich gull heron stork"),
    "fish": split_words("trout salmon shark carp eel tuna cod perch pike herring ray bass seahorse catfish"),
    "reptile": split_words(
        "snake lizard turtle gecko cobra iguana tortoise crocodile python viper alligator boa skink adder"
    ),
}

GOODS = split_words(
    "apple chair book coat lamp shirt table bicycle hammer kettle sweater pencil radio loaf basket carpet"
)
SERVICES = split_phrases(
    "haircut, car wash, piano lesson, taxi ride, house cleaning, dog walk, eye test, swimming class, "
    "bus ride, garden clearing, window cleaning, math lesson, phone repair, pet sitting, boat tour, "
    "shoe repair"
)
SOLIDS = split_words("rock spoon brick coin hammer plate nail ring bell key stone cup")
LIQUIDS = split_phrases(
    "milk, rain, tea, juice, lemonade, ink, vinegar, olive oil, coffee, sea water, soup broth, syrup"
)
GASES = split_phrases(
    "steam in a pot, the air in a tire, the air in a balloon, helium in a tank, the air in a bubble, "
    "the air in a flute, oxygen in a tank, the air in a soccer ball"
)
LENGTHS = {
    "centimeters": split_phrases(
        "a pencil, a spoon, a shoe, a fork, a toothbrush, a crayon, a feather, a banana, a candle, a comb"
    ),
    "meters": split_phrases(
        "a bus, a garden, a swimming pool, a truck, a hallway, a boat, a train car, a whale, a bridge, a tall tree"
    ),
    "kilometers": split_phrases(
        "a river, a highway, a bicycle race, a train trip, a coast, a mountain range, a bus route, a canal, "
        "a desert, a long walk"
    ),
}

VOLUMES = {
    "milliliters": split_phrases(
        "a spoon, a test tube, an egg cup, a perfume bottle, an eye dropper, a thimble, a walnut shell, "
        "a nail polish bottle, a tea cup, a medicine cup"
    ),
    "liters": split_phrases(
        "a bathtub, a bucket, a fish tank, a kitchen sink, a soup pot, a water barrel, a rain barrel, "
        "a watering can, a wading pool, a gasoline tank"
    ),
}

INHERITED = split_phrases(
    "brown eyes, curly hair, freckles, long toes, dimples, straight hair, red hair, blue eyes, wide feet, "
    "small ears, green eyes, dark skin, thick hair, a pointed chin"
)
ACQUIRED = split_phrases(
    "a scar on the knee, pierced ears, a painted wall, dyed hair, a love of chess, a library card, "
    "a sunburn, a broken arm, a pen pal, a clean room, a driving license, a gold medal, short nails, "
    "a new hat"
)

ACTIONS = tuple(
    (verb, rest)
    for verb, _, rest in (
        phrase.partition(" ")
        for phrase in split_phrases(
            "prints her name, bakes bread, paints a fence, plants a bean, opens the window, cleans the desk, "
            "cooks rice, visits a friend, washes the car, kicks the ball, climbs the hill, counts the coins, "
            "mails a card, packs a bag, waters the tree, picks a plum, fixes the gate, calls the shop, plays the drum, "
            "carries the box"
        )
    )
)
"""Verbs in the present tense, third person, each with the rest of its sentence."""


def base_form(verb: str) -> str:
    """Get the base form of a verb of :data:`ACTIONS`: ``carries`` → ``carry``."""
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if verb.endswith(("shes", "xes")) else verb[:-1]


def past_tense(verb: str) -> str:
    """Get the past tense of a verb of :data:`ACTIONS`: ``carries`` → ``carried``."""
    base = base_form(verb)
    stem = base[:-1] + "i" if base.endswith("y") and base[-2] not in "aeiou" else base.removesuffix("e")
    return stem + "ed"


WARES = split_words("bread cheese honey soap candles cards flowers tickets plums shoes")
CITIES = split_words("Oslo Lima Cairo Paris Quito Delhi Rome Perth Boston Nome")
PETS = split_words("Daisy Bambi Rex Luna Milo Bella Coco Max Ruby Toby Lucky Ginger")
GENES = (
    ("cow", "B", "b", "a black coat", "a red coat"), ("goat", "H", "h", "horns", "no horns"),
    ("rabbit", "F", "f", "long fur", "short fur"), ("cat", "S", "s", "straight ears", "curled ears"),
    ("horse", "M", "m", "a dark mane", "a pale mane"), ("mouse", "T", "t", "a long tail", "a short tail"),
)  # fmt: skip
"""Animal, dominant allele, recessive allele, and the trait of each allele."""

CREATURES = split_words("grass beetle mouse snake hawk fish frog rabbit fox berry")
