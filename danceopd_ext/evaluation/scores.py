"""Scores pictures without another service: by CLIP, and by what an edit left unchanged.

Shape suffixes: N pictures, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.evaluation.pictures import read_picture

#: pixels that differ by less than this (of 1) do not count as changed by the edit
CHANGED = 0.1
#: the changed area is widened by this share of the picture's longer side: edits have soft edges
MARGIN = 0.02


class ClipScore:
    """100 * the cosine of CLIP's embeddings of picture and text, not below 0 (Hessel et al. 2021, with weight 100).

    Loaded on the CPU, early enough to refuse a wrong name; moved to the device at the first score, so that drawing has
    its memory. Raises UserError if `where` is not a CLIP model.
    """

    def __init__(self, where: str, device: torch.device):
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model = CLIPModel.from_pretrained(where, use_safetensors=True).eval()
            self.processor = CLIPProcessor.from_pretrained(where, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--clip {where}: the CLIP model could not be loaded ({reason}).") from None
        self.device = device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Return one score for each pair of picture and text, 0..100."""
        self.model.to(self.device)
        inputs = self.processor(
            text=list(texts), images=list(pictures), return_tensors="pt", padding=True, truncation=True
        ).to(self.device)
        out = self.model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
        return (100 * cosine).clamp(min=0).tolist()


def preservation(source: Image.Image, edited: Image.Image) -> dict[str, float]:
    """Return how much of the source image an edit left unchanged.

    `kept`: the share of pixels that did not change. `outside_psnr`: peak signal-to-noise ratio in dB over those outside
    of the changed area, which is widened by MARGIN; 99 if they are equal. The changed area is where the two differ
    by more than CHANGED, so a picture that changed everywhere has nothing outside and no ratio.

    No benchmark says which area an edit may change. So damage that is as strong as an edit counts as an edit: it lowers
    `kept`, but not the ratio, which shows fainter changes (other colours, noise, a shift). Read them together, and
    compare models on the same edits.
    """
    if source.size != edited.size:
        source = source.resize(edited.size, Image.Resampling.LANCZOS)
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float32) / 255 for image in (source, edited))
    changed = np.abs(a - b).max(axis=-1) > CHANGED
    outside = ~_widened(changed, max(1, round(MARGIN * max(changed.shape))))
    result = {"kept": float(1 - changed.mean())}
    if outside.any():
        error = float(((a - b)[outside] ** 2).mean())
        result["outside_psnr"] = min(99.0, -10 * float(np.log10(max(error, 1e-12))))
    return result


def _widened(mask_HW: np.ndarray, margin: int) -> np.ndarray:
    """Return the mask with every true pixel grown to a square of 2 * margin + 1 pixels."""
    pixels = torch.from_numpy(mask_HW).float()[None, None]
    return torch.nn.functional.max_pool2d(pixels, 2 * margin + 1, stride=1, padding=margin)[0, 0].bool().numpy()


def score_folder(folder: Path, jobs: Sequence[Job], clip: ClipScore | None) -> dict[str, dict[str, float]]:
    """Return kind of prompt -> measure -> mean over its pictures; `all` is the mean over the kinds."""
    found: dict[str, list[dict[str, float]]] = {}
    for job in tqdm(jobs, desc=f"scoring {folder.name}", unit="prompt"):
        source = job.source_image()
        for file in job.pictures:
            picture = read_picture(folder / file)
            row = preservation(source, picture) if source else {}
            if clip:
                row["clip"] = clip([picture], [job.prompt])[0]
            found.setdefault(job.kind, []).append(row)
    scores = {kind: _means(rows) for kind, rows in sorted(found.items())}
    return {**scores, "all": _means(list(scores.values()))}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
