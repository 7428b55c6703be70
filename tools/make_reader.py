"""Give the tiny VLM its lesson in reading and put the result into data/assets/tiny-vlm-reader:

    python tools/make_reader.py FOLDER

FOLDER keeps the record of the run; the same command goes on from its last checkpoint.
"""

import sys
from pathlib import Path

import torch

from visual_rft.experiments import fine_tune
from visual_rft.settings import SFTSettings
from visual_rft.studies import reading_rows

TARGET = Path(__file__).parents[1] / "data" / "assets" / "tiny-vlm-reader"
SETTINGS = SFTSettings(steps=400, batch=16, learning_rate=3e-4, warmup=20)

if __name__ == "__main__":
    torch.set_num_threads(1)
    command = f"python tools/make_reader.py {sys.argv[1]}"
    model, processor = fine_tune("sft", "tiny-vlm", reading_rows(), SETTINGS, sys.argv[1], command)
    model.to(torch.float16).save_pretrained(TARGET)
    processor.save_pretrained(TARGET)
    (TARGET / "model.safetensors").chmod(0o644)
    print(f"{(TARGET / 'model.safetensors').stat().st_size:,} bytes")
