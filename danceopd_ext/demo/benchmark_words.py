"""Lists the words of the benchmark beyond those of the four skills, which `pretrain.pipeline.vocabulary` lists.

The captions of `kinds` and the instructions of `edits` are made of both.
"""

CAPTION_WORDS = ("and", "of", "above", "below")
INSTRUCTION_WORDS = (
    "add",
    "replace",
    "with",
    "remove",
    "make",
    "it",
    "plain",
    "draw",
    "fill",
    "shapes",
    "as",
    "outlines",
)
NEW_WORDS = (*CAPTION_WORDS, *INSTRUCTION_WORDS)
