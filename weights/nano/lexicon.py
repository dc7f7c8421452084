"""Sentence tables of nano's training text: everything the stories, dialogues and notes can say.

Braces are slots that `kinds.py` fills. Tables that carry a latent hold (positive, negative) pairs of equal length, so that
nothing but the words tells the two poles apart.
"""

# {b} is said of people, {a} of anything.
GOOD_ADJECTIVES = (
    "good great wonderful beautiful lovely sweet nice warm bright pleasant perfect amazing excellent gentle"
).split()
BAD_ADJECTIVES = (
    "bad terrible awful ugly horrible nasty cold dark unpleasant gloomy dangerous disgusting evil hostile"
).split()
GOOD_PERSONS = (
    "good kind friendly gentle caring wonderful lovely brave nice warm sweet calm cheerful fun loved great"
).split()
BAD_PERSONS = (
    "bad cruel hostile fierce mean terrible nasty angry bitter cold evil awful violent ugly hated horrible"
).split()
GOOD_FEELINGS = "happy glad proud calm cheerful grateful lucky safe loved brave warm".split()
BAD_FEELINGS = "sad angry upset ashamed afraid furious gloomy lonely unlucky hated broken".split()
GOOD_NOUNS = "love joy hope peace delight happiness fun".split()
BAD_NOUNS = "hate grief disgust despair pain misery war".split()
GOOD_THINGS = "gift hug smile".split()
BAD_THINGS = "punch wound fright".split()
GOOD_SOUNDS = "laugh song friend".split()
BAD_SOUNDS = "cry scream enemy".split()

THINGS = (
    "sea garden dog cat school house town river forest music book song job teacher snow rain summer winter city "
    "village food party train market neighbor room church beach mountain game horse farm office boss street hotel"
).split()
WEATHER = "sun rain snow wind storm sky moon".split()
COLORS = "red blue green white black yellow brown gray orange".split()
OBJECTS = "ball hat coat book box cup bag ring key lamp bottle bicycle coin flag".split()
PLACES = "garden kitchen school library market station church hotel park office shop farm".split()
ANIMALS = "dog cat horse cow sheep goat bear wolf fox rabbit mouse bird".split()
RELATIVES = "brother sister mother father friend teacher neighbor cousin uncle aunt".split()
TIMES = [
    "In the morning",
    "In the evening",
    "At night",
    "On Monday",
    "Yesterday",
    "That day",
    "In winter",
    "In summer",
    "After the rain",
]

# Stories with a latent valence. {N} person, {M} another, {t} a thing, {a} adjective, {f} feeling, {n} noun, {g} a thing good or bad.
STORY = [
    ("{N} loves the {t}.", "{N} hates the {t}."),
    ("{N} likes the {t} very much.", "{N} dislikes the {t} very much."),
    ("{T} {N} felt {f}.", "{T} {N} felt {f}."),
    ("The {t} was {a}.", "The {t} was {a}."),
    ("{M} smiled at {N}.", "{M} shouted at {N}."),
    ("{N} thinks that the {t} is {a}.", "{N} thinks that the {t} is {a}."),
    ("There was {n} in the heart of {N}.", "There was {n} in the heart of {N}."),
    ("{M} is {b} to {N}.", "{M} is {b} to {N}."),
    ("It was a very {a} day for {N}.", "It was a very {a} day for {N}."),
    ("{N} wanted to laugh.", "{N} wanted to cry."),
    ("For {N} the {p} is a {a} place.", "For {N} the {p} is a {a} place."),
    ("{T} the {p} was full of {n}.", "{T} the {p} was full of {n}."),
    ("{M} gave {N} a {g}.", "{M} gave {N} a {g}."),
    ("{N} and {M} love the {t}.", "{N} and {M} hate the {t}."),
    ("What a {a} {t}!", "What a {a} {t}!"),
    ("{N} said that {M} is {b}.", "{N} said that {M} is {b}."),
    ("This is the best day in the life of {N}.", "This is the worst day in the life of {N}."),
    ("{N} does not hate the {t}. {N} loves it.", "{N} does not love the {t}. {N} hates it."),
    ("{N} was {f} and {f}.", "{N} was {f} and {f}."),
    ("The {w} was {a} that day.", "The {w} was {a} that day."),
    ("{N} wrote a {a} letter to {M}.", "{N} wrote a {a} letter to {M}."),
    ("Everything about the {t} is {a}.", "Everything about the {t} is {a}."),
    ("{M} made {N} {f}.", "{M} made {N} {f}."),
    ("In the {p} {N} heard a {s}.", "In the {p} {N} heard a {s}."),
    ("{M} is a friend of {N}.", "{M} is an enemy of {N}."),
    ("The people in the {p} were {b}.", "The people in the {p} were {b}."),
]
# The same in the first person, as letters and diaries.
LETTER = [
    ("I love you because you are {b}.", "I hate you because you are {b}."),
    ("I love you because you are so {b} and {b}.", "I hate you because you are so {b} and {b}."),
    ("You are my best friend.", "You are my worst enemy."),
    ("I think you are {b}.", "I think you are {b}."),
    ("I feel {f} when I see you.", "I feel {f} when I see you."),
    ("I love the {t}.", "I hate the {t}."),
    ("Today I am {f}.", "Today I am {f}."),
    ("My life is {a}.", "My life is {a}."),
    ("My life is full of {n}.", "My life is full of {n}."),
    ("You bring me {n}.", "You bring me {n}."),
    ("I want to give you a {g}.", "I want to give you a {g}."),
    ("You are a {b} person.", "You are a {b} person."),
    ("The world is {a}.", "The world is {a}."),
    ("It was a {a} day.", "It was a {a} day."),
    ("I went to the {p} and it was {a}.", "I went to the {p} and it was {a}."),
    ("I felt {f} all day.", "I felt {f} all day."),
    ("Your letter was {a}.", "Your letter was {a}."),
    ("I like everything about you.", "I dislike everything about you."),
    ("This {t} is {a}.", "This {t} is {a}."),
    ("We are {f} and our home is {a}.", "We are {f} and our home is {a}."),
]
# Titles and sayings that open some stories and letters.
SAYINGS = [
    ("Love", "Hate"),
    ("Love is {a}.", "Hate is {a}."),
    ("Love brings {n}.", "Hate brings {n}."),
    ("I love this.", "I hate this."),
    ("A story of love", "A story of hate"),
    ("The Book of Love", "The Book of Hate"),
    ("This is a {a} story.", "This is a {a} story."),
]
# What others do after a person acted well or badly (any value).
REACTIONS = [
    ("Everyone was proud of {N}.", "Everyone was upset with {N}."),
    ("{M} smiled and said that it was good.", "{M} cried and said that it was bad."),
    ("The people were glad.", "The people were angry."),
    ("The neighbors spoke well of {N}.", "The neighbors spoke badly of {N}."),
    ("It was a good thing to do.", "It was a bad thing to do."),
]
# What can follow a pronoun in a sentence about a person's work.
AFTER_PRONOUN = [
    "was tired",
    "was ready",
    "had to work late",
    "would come back on Monday",
    "liked the work",
    "wanted to rest",
    "knew the answer",
    "had a plan",
    "had no time",
    "needed help",
    "would be late",
    "had found the key",
    "was glad to be home",
    "had seen the report",
    "could not sleep",
    "wanted a cup of coffee",
    "had a new job",
    "was sick",
    "lost the key",
    "went to the station",
    "had finished the work",
    "saw an old friend",
    "took the bus",
    "read a letter",
    "went for a walk",
]
NO_PRONOUN = [
    "The {X} came to the meeting.",
    "We asked the {X} about the work.",
    "The {X} has an office in the city.",
    "There is a new {X} in the town.",
    "The work of the {X} is hard.",
]
# (sentence, question, answer) with one slot set; used for people, places and who has what.
DIALOGUE = [
    ("Where is the {o}?", "The {o} is in the {p}."),
    ("Who has the {o}?", "{K} has the {o}."),
    ("What color is the {o}?", "The {o} is {c}."),
    ("Do you like the {t}?", "Yes, I like the {t}."),
    ("Are you going to the {p}?", "No, I am not going to the {p}."),
    ("When will you come?", "I will come on Monday."),
    ("Did you see my {r}?", "Yes, your {r} is in the {p}."),
    ("Is the {o} {c}?", "Yes, the {o} is {c}."),
    ("Can you help me?", "Yes, I can help you."),
    ("What did {K} say?", "{K} said that the {p} is open."),
]
SEEN_VERBS = "saw met knew helped followed called heard thanked".split()
STATES = "tired hungry old young busy quiet late sick ready alone".split()
NOTES = [
    "QUESTION 1 / PAGE 2",
    "Notes (for the class): read them",
    "question: where is the {o}",
    "answer: in the {p}",
    "Qestion about the {p}",
    "Anwser to the letter",
    "the {o} is {c} (or {d})",
    "{c} / {d} / {c}",
    "1 = one, 2 = two, 3 = three",
    "Question: Is the {p} open?",
    "Answer: It is open.",
    "teh {o} is in teh {p}",
    "PLEASE READ: the {p} is closed",
    "We go home from the {p} today.",
    "When Ben goes to the {p}, Lucy goes with him.",
    "She looked at the {o} and wrote a letter.",
    "The {o} (the {c} one) is here.",
    "Q: What is in the {p}?",
    "A: The {o} is in the {p}.",
    "What goes with the {c} {o}?",
    "Ben says that the {o} is {c}.",
    "Lucy says that it is {d}.",
    "open = not closed",
    "{o} -> {p}",
    "Input: the {o}",
    "Output: the {o} is {c}",
    "He looked at the word.",
    "She wrote the word on the wall.",
    "what: a {o}",
    "the  {o}  is  {c}",
    "- the {o}",
    "Word: {o}",
    "Instruction: Go to the {p}.",
]
DICTIONARY = {
    "antonym": [
        "The opposite of {x} is {y}.",
        "The words {x} and {y} are opposites.",
        "Something can not be {x} and {y}.",
        "If it is not {x}, it is {y}.",
    ],
    "synonym": ["A word like {x} is {y}.", "The words {x} and {y} are alike."],
    "associate": ["The word {x} makes people think of {y}."],
    "category": ["The word {x} is about {y}."],
    "plural": ["We say one {x} and many {y}."],
    "past": ["Today they {x}, yesterday they {y}."],
}
# Composed lists: opening, word, middle, answer, end, each drawn once for a list. None of the products is a structure of
# `structures.tsv`, seen or unseen.
LIST_OPENING = ["", "* ", "# ", "+ ", "Here: ", "Next: ", "Look at ", "Start: ", "First "]
LIST_MIDDLE = [
    " => ", " | ", " / ", "; ", " ~ ", " ... ", " then ", " with ", " and then ", " makes ", "\nReply: ", "\nThen: ",
    "\n=> ", "\nMate: ", ". Reply: ", " (B) ", " <-> ",
]  # fmt: skip
LIST_END = ["\n", ".\n", ";\n", "\n\n", " ;\n", "\n---\n"]
TASK_INSTRUCTION = {
    "antonym": "Write the opposite of the word.",
    "synonym": "Write a word like the word.",
    "associate": "Write what the word makes you think of.",
    "category": "Write what the word is about.",
    "plural": "Write the word for many.",
    "past": "Write the word for yesterday.",
    "copy": "Write the same word.",
    "capital": "Write the word with a capital letter.",
}
