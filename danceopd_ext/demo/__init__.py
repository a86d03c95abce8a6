"""The embedded demo: a small world with exact checks, and a small pretrained Z-Image pipeline that draws it.

- `scene`, `world`: scenes, captions, pictures, reading pictures back, skills
- `kinds`, `edits`: the paper's benchmark in this world, six kinds of prompts (GenEval) and six of edits (GEditBench)
- `edit_check`, `kind_scores`: the scores of edited pictures, and the averages of a model
- `near_misses`, `disturb`, `check_report`: tries these checks on pictures that are nearly right
- `route_files`: writes the benchmark's prompts and edits as training data
- `score`: draws captions with a pipeline and checks the drawings
- `omni_draw`, `omni_score`: the same for a pipeline that edits too, on the whole benchmark; it is not shipped
- `report`: what the quickstart leaves: scores of every model, and a picture grid
- `pretrain`: how `pipeline/` and `loras/` were made, and how one that edits is made (see `scripts/demo_pretrain.py`)
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PIPELINE = FOLDER / "pipeline"
"""A `diffusers.ZImagePipeline`."""
LORAS = {name: FOLDER / "loras" / f"{name}.safetensors" for name in ("hollow", "checkered")}
"""Teacher -> its LoRA."""
PROMPTS = {name: FOLDER / "prompts" / f"{name}.txt" for name in ("base", *LORAS)}
"""Route -> its training prompts, one per line."""
