"""Train the model that ships with jaxcal, from one seed, and put it into the package.

    python scripts/train_model.py [--directory build/model] [--seed 0]

Under an hour on two cores; run again after an interruption, it continues where it stopped.
"""

import argparse
import shutil
import time
from pathlib import Path

from jaxcal import training

MODELS = Path(__file__).resolve().parents[1] / "jaxcal" / "models"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="build/model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.time()

    def report(message, fraction):
        minutes = (time.time() - start) / 60
        print(f"{minutes:6.1f} min  {100 * fraction:5.1f} %  {message}", flush=True)

    path = training.train(training.Config(seed=options.seed), options.directory, report)
    MODELS.mkdir(exist_ok=True)
    shutil.copy(path, MODELS / "default.safetensors")
    shutil.copy(path.with_suffix(".json"), MODELS / "default.json")
    print(f"{MODELS / 'default.safetensors'}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
