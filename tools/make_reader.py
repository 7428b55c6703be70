"""Give the tiny VLM its lesson in reading, from which reasoning grounding starts:

    python tools/make_reader.py runs/reader

The folder keeps the record of the run and the trained model; the same command goes on from its last checkpoint. With
--ship the model is put, in 16 bits, where the one that ships with the package lies.
"""

import argparse
from pathlib import Path

import torch

from visual_rft.experiments import fine_tune
from visual_rft.settings import SFTSettings
from visual_rft.studies import reading_rows

SHIPPED = Path(__file__).parents[1] / "data" / "assets" / "tiny-vlm-reader"
SETTINGS = SFTSettings(steps=400, batch=16, learning_rate=3e-4, warmup=20)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="for the record and the model")
    parser.add_argument("--ship", action="store_true", help="replace the model that ships with the package")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python tools/make_reader.py {chosen.folder}"
    model, processor = fine_tune("sft", "tiny-vlm", reading_rows(), SETTINGS, chosen.folder, command)
    if chosen.ship:
        model.to(torch.float16).save_pretrained(SHIPPED)
        processor.save_pretrained(SHIPPED)
        (SHIPPED / "model.safetensors").chmod(0o644)
        print(f"{(SHIPPED / 'model.safetensors').stat().st_size:,} bytes")
