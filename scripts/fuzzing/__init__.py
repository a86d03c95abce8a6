"""Odd input for every place where danceopd_ext reads a file that it did not write (see scripts/fuzz.py).

- `values`, `trees`: odd values, and tables with one of them in the place of a right one, as TOML and JSON
- `octets`: damage that knows nothing of the format; files that are no plain files
- `tensors`: safetensors files with odd headers, tensors and metadata, and their PyTorch relatives
- `worlds`: the right files that every case begins with
- `presets`, `hosted` (with `toolkits`), `loras`, `data`, `prompts`, `models`, `states`: the targets, by what is read
- `cases`, `outcomes`: one case, and what it came to; `workers`: cases in forked processes, with limits
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import that reads it: nothing is asked of the network
os.environ.setdefault("OMP_NUM_THREADS", "1")
