"""Put a pre-trained model into data/assets/tiny-vlm, in half precision:  python tools/ship_model.py FOLDER"""

import sys
from pathlib import Path

import torch

from visual_rft import models

TARGET = Path(__file__).parents[1] / "data" / "assets" / "tiny-vlm"

if __name__ == "__main__":
    model, processor = models.load(sys.argv[1])
    model.to(torch.float16).save_pretrained(TARGET)
    models.limit_pixels(processor, 112 * 112)  # the size of all pictures that it has seen; larger ones derail it
    processor.save_pretrained(TARGET)
    (TARGET / "model.safetensors").chmod(0o644)
    print(f"{(TARGET / 'model.safetensors').stat().st_size:,} bytes")
