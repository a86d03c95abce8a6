"""Names the number formats in which weights can be held, without importing what computes with them."""

from __future__ import annotations

#: the words of `quantize`; held_linear.PACKINGS has the formats
NUMBER_FORMATS = ("nf4", "int8", "fp8")

#: words of other programs -> the word here, "" if it is not a quantisation to choose
OTHER_WORDS = {
    **dict.fromkeys(("4bit", "4-bit", "int4", "uint4", "fp4", "bnb_4bit", "bnb-nf4"), "nf4"),
    **dict.fromkeys(("8bit", "8-bit", "qint8", "uint8", "int8_weight_only"), "int8"),
    **dict.fromkeys(("float8", "fp8_scaled", "qfloat8", "fp8_e4m3fn", "float8_e4m3fn", "fp8_e5m2"), "fp8"),
    **dict.fromkeys(("no", "fp16", "bf16", "fp32", "gguf"), ""),
}
