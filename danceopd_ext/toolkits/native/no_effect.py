"""Finds settings and files of a preset that have no effect, so that the run reports them before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from danceopd_ext.config.danceopd import DanceOPDSection
from danceopd_ext.lora.algebra import compress, compression_loss
from danceopd_ext.lora.weights import Lora
from danceopd_ext.toolkits.native.run_plan import FoundTeacher

NOTHING = "teacher {}: this teacher changes nothing."
#: higher ranks are those of a LoHa or LoKr written as a plain LoRA, which nobody trains
LARGE_RANK = 256


def zero_files(loras: Sequence[Lora]) -> list[str]:
    """Return notes on the LoRAs that change nothing, if others do."""
    zero = [lora.name for lora in loras if lora.changes_nothing()]
    return [f"{name} changes nothing: its weights are zero" for name in zero] if len(zero) < len(loras) else []


def at_rank(lora: Lora, rank: int) -> tuple[Lora, float]:
    """Return the LoRA with at most `rank`, and the share of its change that this loses: ||a - b|| / ||b||."""
    if all(change.rank <= rank for change in lora.modules.values()):
        return lora, 0.0
    smaller = compress(lora, rank)
    return smaller, round(compression_loss(lora, smaller), 6)


def lost_by_rank(what: str, rank: int, lost: float) -> str:
    """Return the note on a merge that network_dim cuts."""
    return f"network_dim = {rank} loses {lost:.1%} of the {what}; a larger network_dim keeps more"


def cut_to_rank(start: Lora, rank: int, notes: list[str]) -> Lora:
    """Return `network_weights` at the student's rank; notes report what that loses, or that it changes nothing."""
    if start.changes_nothing():
        notes.append("network_weights changes nothing: its weights are zero")
    own = max((change.rank for change in start.modules.values()), default=0)
    cut, lost = at_rank(start, rank)
    if own > rank:
        keep = f"Set network_dim = {own} to keep all of it" if own <= LARGE_RANK else "A larger network_dim keeps more"
        notes.append(
            f"network_weights: rank {own} is cut to network_dim = {rank}, which loses {lost:.1%} of the LoRA's "
            f"change. {keep}"
        )
    return cut


def of_teacher(name: str, lora: Lora | None, zero: Sequence[str]) -> Iterator[str]:
    """Yield notes on the LoRA files of a teacher. `zero`: see `zero_files`."""
    for note in [*(lora.notes if lora else ()), *zero]:
        yield f"teacher {name}: {note}"
    if lora and lora.changes_nothing():
        yield f"{NOTHING.format(name)} Its LoRA times its strength is zero, so it is the same as the base"


def without_effect(
    options: DanceOPDSection,
    teachers: Mapping[str, FoundTeacher],
    loras: Mapping[str, Lora],
    digests: Mapping[str, str],
    fresh: bool,
) -> Iterator[str]:
    """Yield notes on teachers that teach nothing.

    `loras`: teacher -> its LoRA. `digests`: teacher -> what it is, LoRA, strength and guidance included. `fresh`: the
    student starts as the base.
    """
    names = {name: found for name, found in teachers.items() if options.routes.get(name, 1.0)}
    if options.method == "joint":
        yield from _not_asked(names, loras)
        return
    yield from _twins(names, loras, digests)
    if fresh and all(_is_student(one, loras.get(n), options.student_guidance_scale) for n, one in names.items()):
        yield "there is nothing to learn: every teacher is the same as the fresh student. Training only adds noise"


def same_as_base(identity: Mapping[str, object]) -> list[str]:
    """Return notes on teachers whose checkpoint has the base's own files. `identity`: with `contents_of`."""
    base = identity["model_content"]
    return [
        f"{NOTHING.format(name)} The files of its checkpoint are those of the base"
        for name, content in identity["checkpoint_content"].items()
        if content == base
    ]


def _is_student(found: FoundTeacher, lora: Lora | None, student_guidance_scale: float) -> bool:
    """Whether the teacher's field is that of a student that has not learnt anything yet."""
    changed = found.checkpoint or (lora and not lora.changes_nothing())
    return not changed and found.settings.guidance_scale == student_guidance_scale


def _twins(
    teachers: Mapping[str, FoundTeacher], loras: Mapping[str, Lora], digests: Mapping[str, str]
) -> Iterator[str]:
    for one, other in combinations(teachers, 2):
        own = loras.get(one) or teachers[one].checkpoint
        if own and digests[one] == digests[other]:
            yield f"teachers {one} and {other} are the same: the same weights at the same strength and guidance"


def _not_asked(teachers: Mapping[str, FoundTeacher], loras: Mapping[str, Lora]) -> Iterator[str]:
    for name, found in teachers.items():
        if name in loras or found.checkpoint or found.settings.guidance_scale != 1:
            yield (
                f'teacher {name}: method = "joint" learns from the pictures of its data alone. The weights and the '
                "guidance_scale of its teacher are not used"
            )
