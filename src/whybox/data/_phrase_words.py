"""The words that tell adjectives and nouns apart where no tagger is installed."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLORS = _words(
    """
    black white grey gray red green blue yellow orange purple pink brown beige tan turquoise teal cyan magenta violet
    maroon navy crimson scarlet ivory lavender lime olive khaki silver golden blond blonde reddish bluish greenish dark
    bright pale colored coloured colorful multicolored multicoloured
    """
)

SIZES = _words(
    """
    big small large little tiny huge tall short long wide narrow thick thin giant giant-sized massive enormous miniature
    mini deep shallow high low heavy slim fat skinny chubby oversized full-sized medium
    """
)

MATERIALS = _words(
    """
    wooden wood metal metallic plastic glass stone brick concrete leather woolen woollen cotton paper cardboard ceramic
    marble steel iron rubber tiled stainless
    """
)

OTHERS = _words(
    """
    old new young ancient modern antique vintage elderly adult fresh ripe raw clean dirty wet dry muddy dusty rusty
    broken open closed empty full hot cold warm cool frozen snowy icy sunny cloudy rainy foggy stormy windy sandy rocky
    grassy hilly leafy bushy furry fluffy hairy curly shaggy woolly smooth rough soft hard sharp round square
    rectangular oval flat curved straight striped spotted dotted checkered checked plaid patterned floral plain fancy
    pretty cute nice good bad great lovely ugly happy sad angry sleepy tired hungry busy crowded quiet calm lush bare
    barefoot shirtless bald bearded shiny glossy dull blurry clear transparent tasty yummy juicy spicy sweet sour salty
    creamy crispy cooked baked fried grilled roasted sliced chopped stuffed parked decorated painted folded fenced
    furnished lit lighted leather-bound male female double single twin electric digital portable public local urban
    rural rustic industrial residential commercial tropical royal oriental asian american european african wild stray
    domestic healthy professional upper lower outdoor indoor front rear
    """
)
"""Further adjectives that are frequent in captions."""

ADJECTIVES = COLORS | SIZES | MATERIALS | OTHERS
SUFFIXES = ("ful", "ous", "ish", "less", "able", "ible", "ive", "ic")
"""A word that ends so is an adjective, too."""

NO_ADJECTIVES = _words(
    """
    handful mouthful spoonful bowlful plateful armful cupful fish dish finish goldfish jellyfish catfish swordfish
    starfish selfish polish brush blush rubbish radish english table cable vegetable vegetables stable constable bible
    unless nevertheless five dive drive live give arrive have hive archive olive native detective motive locomotive
    relative representative executive music traffic fabric picnic clinic topic comic critic mechanic attic garlic medic
    mosaic
    """
)
"""Words with an adjective's suffix that are something else."""

NO_NOUNS = _words(
    """
    left right
    a an the this that these those some any each every no another other others such same all both several many few much
    more most less and or but nor so yet as if than because while when where which who whom whose what how why in on at
    by for from of to with without into onto over under above below behind beside besides between among along across
    around through near next inside outside off out up down upon against toward towards during before after about
    beneath underneath past i you he she it we they me him her us them my your his its our their one two three four five
    six seven eight nine ten eleven twelve is are was were be been being am do does did has have had having can could
    will would may might must shall should not very too quite rather just also only even still again there here then now
    together away apart alone back sits stands lies walks runs rides holds holding wearing wears looks looking sitting
    standing lying walking running riding eating playing flying swimming jumping talking sleeping driving skiing surfing
    """
)
"""Words that cannot be the noun of a phrase."""

NOUNS_IN_ING = _words(
    """
    building ceiling painting clothing wing ring king string railing awning swing crossing icing dressing frosting
    evening morning thing pudding wedding lightning parking siding earring filling topping stuffing seating lighting
    flooring landing sling
    """
)
"""Nouns that end like a verb."""

NOUNS_IN_LY = _words(
    """
    family butterfly fly belly jelly lily bully dragonfly ally assembly trolley
    """
)
"""Nouns that end like an adverb."""
