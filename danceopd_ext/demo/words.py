"""The words of the benchmark that today's demo pipeline does not know.

`pretrain.pipeline.vocabulary` lists the words of the shipped tokenizer. A pipeline that is trained on the captions of
`kinds` and the instructions of `edits` must know these too. Appended to the vocabulary, they leave the numbers of the
old words as they are.
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
