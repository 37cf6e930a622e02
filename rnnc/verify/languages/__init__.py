"""Languages and groups that claims speak of: automata, their transition monoids, and what follows from them."""

from rnnc.verify.languages.dfa import DFA, TooLarge, Word
from rnnc.verify.languages.facts import LanguageFacts, LetterFacts
from rnnc.verify.languages.groups import GroupFacts, GroupTask
from rnnc.verify.languages.language import Language, group_of, language, language_of

__all__ = [
    "DFA",
    "GroupFacts",
    "GroupTask",
    "Language",
    "LanguageFacts",
    "LetterFacts",
    "TooLarge",
    "Word",
    "group_of",
    "language",
    "language_of",
]
