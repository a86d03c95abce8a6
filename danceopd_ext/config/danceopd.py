"""Defines the [danceopd] section of a preset and its teachers, which are the same for every toolkit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from danceopd_ext.config.fields import check_ranges, key, one_of
from danceopd_ext.config.toolkits import NATIVE, TOOLKITS, hosted_toolkits, quoted
from danceopd_ext.errors import UserError
from danceopd_ext.ranges import GUIDANCE, RANK, SAMPLES, SOLVER_STEPS, STRENGTH, Range

VARIABLES = [toolkit.checkout.variable for toolkit in hosted_toolkits().values()]
FLOWOPD_KEYS = ("flowopd_group_size", "sde_eta", "ppo_clip", "advantage_clip")


@dataclass(kw_only=True, frozen=True)
class Teacher:
    """One teacher: LoRAs or a checkpoint, with or without guidance. A section without keys is the frozen base."""

    lora: str | list[str] | None = key(
        None, "A LoRA, or a list of LoRAs that are applied together: files, folders or hub ids.", path="found"
    )
    strength: float | list[float] = key(1.0, "Strength of the LoRA, or a list with one for each LoRA.", within=STRENGTH)
    checkpoint: str | None = key(
        None, "A full model as teacher: hub id, diffusers folder or .safetensors file.", path="found"
    )
    extract_rank: int | None = key(
        None, "Turn the checkpoint into a LoRA of this rank first: less memory, nearly the same teacher.", within=RANK
    )
    guidance_scale: float = key(
        1.0,
        "Classifier-free guidance (alpha) that the student absorbs; 1 means none. The same as SD's CFG scale.",
        within=GUIDANCE,
    )
    ignore_text_encoder: bool = key(False, "Use the LoRA even though its text-encoder part cannot be distilled.")
    ignore_other_parts: bool = key(
        False, "Use the LoRA even though it also changes biases or norms; these changes are left out."
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.lora and self.checkpoint:
            raise UserError("a teacher has either lora or checkpoint, not both.")
        if self.extract_rank and not self.checkpoint:
            raise UserError("extract_rank works only for a teacher with a checkpoint.")
        if not self.lora and (self.strength != 1 or self.ignore_text_encoder):
            name = "strength" if self.strength != 1 else "ignore_text_encoder"
            raise UserError(f"{name} works only for a teacher with lora.")
        if isinstance(self.strength, list) and len(self.strength) != len(self.loras):
            raise UserError(f"{len(self.loras)} LoRAs, but {len(self.strength)} strengths.")
        self._check_strengths()

    def _check_strengths(self) -> None:
        """Refuse strength 0: such a teacher would be the base under another name."""
        silent = [lora for lora, strength in zip(self.loras, self.strengths, strict=True) if not strength]
        if silent and len(silent) == len(self.loras):
            raise UserError(
                f"strength = {self.strength}: this teacher changes nothing. Remove strength (1 by default), or all "
                "keys: a section without keys is the base."
            )
        if silent:
            raise UserError(
                f"strength = {self.strength}: {silent[0]} changes nothing. Remove it from lora and strength."
            )

    @property
    def ignored(self) -> dict[str, bool]:
        """The parts of the LoRA files that may be left out, as keywords of `read_lora`."""
        return {"ignore_text_encoder": self.ignore_text_encoder, "ignore_other_parts": self.ignore_other_parts}

    @property
    def loras(self) -> list[str]:
        return [self.lora] if isinstance(self.lora, str) else list(self.lora or [])

    @property
    def strengths(self) -> list[float]:
        return self.strength if isinstance(self.strength, list) else [self.strength] * len(self.loras)


@dataclass(kw_only=True, frozen=True)
class DanceOPDSection:
    """The method, and the options that sd-scripts does not have."""

    toolkit: one_of(TOOLKITS) = key(
        NATIVE.name,
        f"Who runs the training loop: this package, or your checkout of kohya's {' or '.join(hosted_toolkits())}.",
    )
    toolkit_dir: str | None = key(
        None,
        f"The folder of the toolkit's checkout. Default: {' or '.join(VARIABLES)} in the environment, then the current "
        "directory. In a preset it must be a git clone or a release outside the preset's folder.",
        path="found",
    )
    overwrite: bool = key(
        False,
        "Replace the LoRAs and states of an earlier run with this output_name; without this key they stop the run.",
    )
    method: Literal[
        "danceopd", "joint", "offpolicy", "diffusionopd", "flowopd", "soft", "merge_average", "merge_sum", "timestep",
        "kl", "sds", "dmd", "consistency",
    ] = key(
        "danceopd",
        "How the student learns: danceopd, or one of the paper's baselines on the same data: joint (supervised, from "
        "the pictures of the data), offpolicy, diffusionopd, flowopd, soft (mean of all teachers). merge_average and "
        "merge_sum train nothing and write the merge of the LoRA teachers. timestep, kl, sds, dmd and consistency are "
        "danceopd with another objective, for ablations.",
    )  # fmt: skip
    rollout_steps: int = key(16, "Solver steps of the student's full rollout.", within=SOLVER_STEPS)
    rollout_solver: Literal["euler", "ab2"] = key(
        "euler",
        "Solver of the rollout: euler, as in the paper, or ab2 (Adams-Bashforth), of second order at the same cost. "
        "Its states are more accurate if rollout_steps is small.",
    )
    query: Literal["low_noise", "mid_noise", "high_noise", "uniform", "stratified"] = key(
        "low_noise", "The states of the rollout at which the teacher is queried."
    )
    num_queries: int = key(
        1,
        "How many states of each rollout the teacher is queried at (K).",
        within=Range(minimum=1, maximum=SOLVER_STEPS.maximum, usual="usual values are 1 to 4"),
    )
    early_stop: bool = key(
        True,
        "Stop a rollout at the last queried state. false continues to the clean end, which takes longer and changes "
        "only rounding: use it to measure what stopping saves.",
    )
    rollout_batch_size: int | None = key(
        None,
        "Samples that roll out together. Default: all of a step, fewer if they do not fit into memory.",
        within=Range(minimum=1, maximum=SAMPLES.maximum, usual="to roll out all of a step together, leave it out"),
    )
    match_batch_size: int | None = key(
        None,
        "States that the student matches together, with gradients. Default: train_batch_size.",
        within=Range(minimum=1, maximum=SAMPLES.maximum, usual="usual values are 1 to 16"),
    )
    flowopd_group_size: int = key(
        16,
        "flowopd: trajectories per prompt in a step.",
        within=Range(minimum=1, maximum=1024, usual="usual values are 4 to 32"),
    )
    sde_eta: float = key(
        0.7,
        "flowopd: noise level of its stochastic rollout.",
        within=Range(minimum=1e-6, maximum=100, usual="usual values are 0.1 to 1.5"),
    )
    ppo_clip: float = key(
        1e-4,
        "flowopd: how far the probability ratio may move from 1.",
        within=Range(above=0, maximum=1000, usual="usual values are 1e-5 to 0.2"),
    )
    advantage_clip: float = key(
        5.0, "flowopd: largest advantage.", within=Range(above=0, maximum=1e6, usual="usual values are 1 to 10")
    )
    student_guidance_scale: float = key(
        1.0,
        "Guidance (beta) that you will use with the finished LoRA; rollout and match then include it. 1 means none.",
        within=GUIDANCE,
    )
    student_init: Literal["fresh", "merge_average", "merge_sum"] = key(
        "fresh",
        "What the student starts from: nothing, or its teachers merged as by the method of that name (in an average, "
        "the base "
        "counts as a change of zero) and compressed to network_dim.",
    )
    lora_targets: list[str] = key(
        [], "Endings of the names of the layers that get a LoRA. Default: the family's attention layers."
    )
    teachers: dict[str, Teacher] = field(default_factory=dict)
    prompts: dict[str, str | list[str]] = field(default_factory=dict)
    routes: dict[str, float] = field(default_factory=dict)
    datasets: dict[str, int | str | list[int | str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_queries > self.rollout_steps:
            raise UserError(
                f"num_queries = {self.num_queries}: a rollout of rollout_steps = {self.rollout_steps} has only "
                f"{self.rollout_steps} states to query. Use num_queries = {self.rollout_steps} or less."
            )
        self._check_method()
        self._check_datasets()
        if self.toolkit == NATIVE.name:
            self._check_native()
        else:
            self._check_hosted()

    def require_teachers(self) -> None:
        """Raise UserError if there is no teacher."""
        if not self.teachers:
            raise UserError("no teacher: add a [danceopd.teachers.NAME] section for each skill (empty: the base).")

    @property
    def merges(self) -> bool:
        """Whether the method merges weights and trains nothing."""
        return self.method.startswith("merge_")

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys that belong only to this method."""
        return FLOWOPD_KEYS if self.method == "flowopd" else ()

    def _check_method(self) -> None:
        """Refuse keys that belong to another method."""
        for name in FLOWOPD_KEYS:
            if name not in self.own_keys and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(
                    f'{name} works only with method = "flowopd"; this preset has method = "{self.method}". Remove it.'
                )
        if self.merges and self.student_init != "fresh":
            raise UserError(
                f'student_init = "{self.student_init}": method = "{self.method}" does not train a student. Remove '
                "one of them."
            )

    def _check_native(self) -> None:
        if self.toolkit_dir:
            raise UserError(
                f'toolkit_dir = "{self.toolkit_dir}" works only with toolkit = {quoted(hosted_toolkits())}; this '
                "preset has "
                f'toolkit = "{NATIVE.name}". Name the toolkit, or remove toolkit_dir.'
            )

    def _check_datasets(self) -> None:
        if self.datasets and not TOOLKITS[self.toolkit].datasets:
            takers = quoted({name: toolkit for name, toolkit in TOOLKITS.items() if toolkit.datasets})
            raise UserError(
                f'[danceopd.datasets] works only with toolkit = {takers}; with toolkit = "{self.toolkit}" a subset in '
                "the dataset file names its teacher with custom_attributes.teacher."
            )

    def _check_hosted(self) -> None:
        """Refuse what a hosted run cannot do: the toolkit has one transformer and creates the student itself."""
        where = f'toolkit = "{self.toolkit}"'
        if self.method != "danceopd":
            raise UserError(
                f'method = "{self.method}": with {where} only method = "danceopd" runs, on the micro-batches that the '
                f'toolkit hands over. Use toolkit = "{NATIVE.name}" for this method.'
            )
        if self.lora_targets:
            raise UserError(
                f"lora_targets: with {where} the toolkit's network module chooses the layers. Remove it and use "
                "network_args."
            )
        if self.student_init != "fresh":
            raise UserError(
                f'student_init = "{self.student_init}": with {where} the toolkit creates the student. Remove it; to '
                "start from a LoRA, merge the teachers into one file and name it in network_weights."
            )
        for name, teacher in self.teachers.items():
            if teacher.checkpoint:
                raise UserError(
                    f"[danceopd.teachers.{name}] checkpoint: {where} takes only LoRA teachers: it loads a single "
                    "transformer. "
                    "Turn the checkpoint into a LoRA first, for example with the toolkit's own extraction script, or "
                    f'use toolkit = "{NATIVE.name}".'
                )
