"""The words of the story grammar."""

# People who give and receive. Every name is one token of the builtin model's tokenizer.
GIVING_NAMES = (
    "Alice", "Anna", "Ben", "Clara", "Daniel", "David", "Edward", "Ella", "Emma", "Frank",
    "George", "Grace", "Hannah", "Harry", "Helen", "Henry", "Jack", "James", "Jane", "John",
    "Julia", "Kate", "Laura", "Leo", "Lucy", "Mark", "Martin", "Mary", "Max", "Michael",
    "Nina", "Oliver", "Oscar", "Paul", "Peter", "Rachel", "Robert", "Rose", "Ruth", "Sam",
    "Sarah", "Simon", "Sophie", "Steven", "Thomas", "Tom", "Victor", "Walter", "William", "Zoe",
)  # fmt: skip

# People who live in the same stories but never give and never receive: the names on which the
# builtin model's indirect object identification is examined.
OTHER_NAMES = (
    "Amir", "Ashley", "Brian", "Carlos", "Chloe", "Derek", "Diego", "Fatima", "Heather", "Jason",
    "Keisha", "Kevin", "Megan", "Nicole", "Priya", "Dustin", "Ryan", "Sanjay", "Tyler", "Yuki",
)  # fmt: skip

FEMALE = frozenset({
    "Alice", "Anna", "Clara", "Ella", "Emma", "Grace", "Hannah", "Helen", "Jane", "Julia", "Kate", "Laura", "Lucy",
    "Mary", "Nina", "Rachel", "Rose", "Ruth", "Sarah", "Sophie", "Zoe", "Ashley", "Chloe", "Fatima", "Heather",
    "Keisha", "Megan", "Nicole", "Priya", "Yuki",
})  # fmt: skip

PLACES = (
    "park", "market", "station", "library", "school", "garden", "harbour", "museum", "kitchen", "office",
    "church", "theatre", "hospital", "river", "castle", "farm", "bakery", "beach", "bridge", "zoo",
    "shop", "mill", "tower", "barn", "hotel", "café",
)  # fmt: skip

THINGS = (
    "book", "ring", "letter", "key", "lamp", "basket", "coin", "kite", "drum", "map",
    "flower", "hat", "cup", "knife", "violin", "watch", "ball", "cake", "ticket", "rope",
    "box", "spoon", "necklace", "candle", "stone", "painting", "drink", "blanket", "pencil", "bell",
)  # fmt: skip

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "silver", "golden", "brown", "grey")
QUALITIES = ("small", "worn", "heavy", "strange", "broken", "beautiful", "new", "clean", "dusty", "simple")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Nouns with their plurals, for agreement across a distance.
NOUNS = (
    ("key", "keys"), ("dog", "dogs"), ("teacher", "teachers"), ("farmer", "farmers"), ("bird", "birds"),
    ("ship", "ships"), ("picture", "pictures"), ("child", "children"), ("horse", "horses"), ("window", "windows"),
    ("sailor", "sailors"), ("tree", "trees"), ("letter", "letters"), ("soldier", "soldiers"), ("cat", "cats"),
)  # fmt: skip

# Verbs as (singular, plural) with what may follow them.
AGREEING_VERBS = (
    ("is", "are", ("very old", "ready", "near the door", "well known", "missing")),
    ("was", "were", ("very old", "ready", "near the door", "quite lost", "in the house")),
    ("has", "have", ("a good name", "nothing to fear", "been here before", "no home")),
    ("seems", "seem", ("tired", "larger than before", "out of place", "happy today")),
    ("comes", "come", ("from the north", "back every summer", "late at night")),
)  # fmt: skip

# Each topic brings its own nouns, verbs in the past tense, and closing phrases.
TOPICS = {
    "cooking": (
        ("soup", "bread", "onion", "oven", "salt", "butter", "pie", "stew"),
        ("baked", "tasted", "stirred", "burned", "served", "cut"),
        ("for dinner", "with a wooden spoon", "before the guests came", "until it was brown"),
    ),
    "sea": (
        ("boat", "sail", "wave", "anchor", "net", "storm", "island", "shell"),
        ("watched", "followed", "feared", "painted", "lost", "found"),
        ("far from the shore", "under the dark clouds", "at low tide", "beyond the lighthouse"),
    ),
    "garden": (
        ("apple", "seed", "hedge", "spade", "bee", "tulip", "fence", "pond"),
        ("planted", "watered", "picked", "counted", "buried", "cleared"),
        ("in early spring", "behind the house", "after the rain", "among the roses"),
    ),
    "music": (
        ("song", "piano", "choir", "tune", "dance", "trumpet", "concert", "chord"),
        ("played", "practised", "wrote", "heard", "forgot", "sang"),
        ("all evening", "without a mistake", "for the whole village", "in a low voice"),
    ),
    "school": (
        ("lesson", "exam", "poem", "desk", "question", "answer", "page", "chalk"),
        ("learned", "copied", "read", "explained", "finished", "studied"),
        ("before the bell rang", "for the third time", "on the blackboard", "with great care"),
    ),
    "trade": (
        ("price", "wagon", "silk", "debt", "bargain", "scale", "purse", "spice"),
        ("sold", "bought", "weighed", "paid", "carried", "offered"),
        ("at a fair price", "in the square", "without any profit", "to pay the rent"),
    ),
}  # fmt: skip

INTRANSITIVE = ("laughed", "waited", "slept", "smiled", "arrived", "sang", "worked", "rested", "sighed", "ran home")
SAYINGS = (
    "I have never seen this place before", "It will rain tomorrow", "We should go home now", "The door is open",
    "Nobody knows the answer", "I am not afraid of the dark", "There is still time", "You must be very tired",
    "The train leaves at noon", "That was a good story", "I do not believe it", "Please close the window",
)  # fmt: skip
