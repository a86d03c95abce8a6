"""Contains the embedded demo: a small world with exact checks, and a small Z-Image pipeline that draws and edits it.

- `scene`, `world`: scenes, captions, pictures, reading pictures back, skills
- `kinds`, `edits`: the paper's benchmark in this world, six kinds of prompts (GenEval) and six of edits (GEditBench)
- `edit_check`, `kind_scores`: the scores of edited pictures, and the averages of a model
- `near_misses`, `disturbances`, `check_report`: tests these checks on pictures that are nearly right
- `route_files`: writes the benchmark's prompts and edits as training data; `quickstart_data`: the quickstart's
- `omni_draw`, `omni_score`: draws and edits with the pipeline, and scores that by the checks
- `report_tasks`, `report`: the quickstart's results: scores of every model, and a picture grid
- `pretrain`: how `pipeline/`, `loras/` and `style/` were made (see `scripts/demo_pretrain.py`)

`loras/local_edit`, `loras/global_edit` and `style/` (a whole transformer that draws outlines) are for
`danceopd_ext.reproduce`.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PIPELINE = FOLDER / "pipeline"
"""A `diffusers.ZImageOmniPipeline`."""
LORAS = {name: FOLDER / "loras" / f"{name}.safetensors" for name in ("hollow", "checkered", "edit")}
"""Teacher of the quickstart -> its LoRA."""
PROMPTS = {name: FOLDER / "prompts" / f"{name}.txt" for name in ("base", "hollow", "checkered")}
"""Route -> its training prompts, one per line. Those of `edit` have pictures, which `quickstart_data` makes."""
