"""The sentences of the accent corpus: commands to a home and a telephone, drawn from a small grammar."""

import random
import re

# A sentence is drawn by replacing each {name} with one of its alternatives until no {name} is left.
GRAMMAR = {
    "command": ["{house}", "{house}", "{clock}", "{music}", "{people}", "{question}", "{other}"],
    "house": [
        "turn {onoff} the {room} {device}",
        "turn {onoff} the {room} {device} {now}",
        "turn the {room} {device} {onoff}",
        "turn {onoff} the {device} in the {room}",
        "make the {room} lights {colour}",
        "make it {warmer} in the {room} {now}",
        "set the {room} heating to twenty {digit}",
        "{shut}",
        "{shut} {now}",
        "{open} the {door} in the {room}",
    ],
    "clock": [
        "set a timer for {number} {unit}",
        "set an alarm for {hour} in the {part}",
        "set an alarm for {hour} {day}",
        "wake me at {hour} {day}",
        "don't wake me {day}",
        "stop the timer {now}",
    ],
    "music": [
        "play some {genre} in the {room}",
        "play my {genre} songs {day}",
        "play {that} {genre} song {now}",
        "stop the {genre} in the {room}",
        "turn the {genre} {updown} in the {room}",
        "turn {updown} the {genre} {now}",
    ],
    "people": [
        "call {person}",
        "call {person} {now}",
        "text {person} that I'm {state}",
        "tell {person} I'm {state}",
        "tell {person} to {chore}",
        "read {that} message from {person}",
        "ask {person} to {chore}",
    ],
    "question": [
        "what's the weather like {day}",
        "is it {warmer} outside {day}",
        "will it be {warmer} in the {room}",
        "will it rain {day}",
        "is the {room} {door} open {now}",
        "are the {room} lights {onoff}",
    ],
    "other": [
        "add {food} and {food} to my list",
        "remind me to {chore}",
        "remind me to {chore} {day}",
        "don't {chore} {day}",
    ],
    "shut": ["{open} the {room} {door}"],
    "chore": ["call {person}", "feed the cat", "water the garden", "buy {food}", "buy {food} and {food}", "{shut}"],
    "room": ["kitchen", "bedroom", "bathroom", "hall", "garden", "office", "garage"],
    "device": ["lights", "lamp", "heating", "fan"],
    "onoff": ["on", "off"],
    "updown": ["up", "down"],
    "colour": ["red", "blue", "warmer", "brighter"],
    "warmer": ["warm", "cold", "dark", "warmer", "brighter"],
    "digit": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "tens": ["twenty", "thirty", "forty", "fifty"],
    "number": ["{digit}", "ten", "twelve", "fifteen", "{tens}", "{tens} {digit}", "{tens} {digit}"],
    "hour": ["{digit}", "ten", "half past {digit}", "{digit} thirty", "{digit} fifteen"],
    "unit": ["seconds", "minutes", "hours"],
    "day": ["today", "tomorrow", "tonight", "this {part}", "tomorrow {part}"],
    "part": ["morning", "evening"],
    "genre": ["jazz", "rock", "music"],
    "that": ["that", "the next", "the last", "my"],
    "now": ["now", "again", "please"],
    "person": ["my sister", "my brother", "my mother", "my father", "the doctor", "the office"],
    "state": ["late", "at home", "in the {room}", "at the doctor"],
    "open": ["open", "close", "lock"],
    "door": ["door", "window"],
    "food": ["milk", "bread", "water", "butter"],
}


def draw_sentence(rng: random.Random) -> str:
    """Return a random sentence of the grammar, of at most eight words."""
    while True:
        sentence = "{command}"
        while "{" in sentence:
            sentence = re.sub(r"{(\w+)}", lambda match: rng.choice(GRAMMAR[match[1]]), sentence)
        if sentence.count(" ") < 8 and not re.search(r"\b(\w+) and \1\b", sentence):
            return sentence


def draw_sentences(count: int, rng: random.Random, without: frozenset[str] = frozenset()) -> list[str]:
    """Return `count` different random sentences of the grammar, without those in `without`."""
    sentences: dict[str, None] = {}  # a set that keeps its order
    while len(sentences) < count:
        sentence = draw_sentence(rng)
        if sentence not in without:
            sentences[sentence] = None
    return list(sentences)
