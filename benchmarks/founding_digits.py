"""The founding network on upright digits with its published settings, beside the 0.9924 its authors printed for MNIST.

    python benchmarks/founding_digits.py FOLDER OUT [--epochs 10]

FOLDER holds train.npz, valid.npz and test.npz: images (N,28,28), labels (N,), angles_deg (N,), digits turned by a
known angle. They are turned back (bicubic, so slightly blurred), padded to 32 pixels and written as a folder tree; the
largest file trains, the test file is asked once.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from roteq.data import open_split
from roteq.inference import load_classifier, predict
from roteq.metrics import evaluate
from roteq.models import ModelConfig
from roteq.training import TrainConfig, fit


def write_upright(npz: Path, out: Path) -> None:
    """One PNG of 32x32 a digit, in folders of their classes."""
    if out.is_dir():
        return
    arrays = np.load(npz)
    for label in range(10):
        (out / str(label)).mkdir(parents=True)
    for i, (digit, label, angle) in enumerate(
        zip(*(arrays[k] for k in ("images", "labels", "angles_deg")), strict=True)
    ):
        upright = Image.fromarray(np.pad(digit, 2)).rotate(-float(angle), Image.Resampling.BICUBIC)
        upright.save(out / str(label) / f"{i:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    digits = args.out / "digits"
    for split, file in (("train", "test.npz"), ("validation", "valid.npz"), ("test", "train.npz")):  # most for training
        write_upright(args.folder / file, digits / split)
    published = TrainConfig(
        epochs=args.epochs, batch_size=100, optimizer="adam", lr=1e-3, weight_decay=5e-4, schedule="constant",
        normalize="unit", augment={"turn": "none"}, seed=args.seed,
    )  # fmt: skip
    run = args.out / f"se2cnn_study-e{args.epochs}-s{args.seed}"
    fitted = fit(ModelConfig(name="se2cnn_study"), digits, published, run)
    answers = predict(load_classifier(run), open_split(digits, "test"))
    result = evaluate(answers.labels, answers.probabilities, answers.classes)
    accuracy = result.metrics["accuracy"]
    print(f"{result.n} test digits, majority rate {result.majority_rate:.4f}")
    print(f"accuracy {accuracy.value:.4f} ({accuracy.low:.4f} to {accuracy.high:.4f}); published on MNIST: 0.9924")
    print("training loss by epoch:", *(f"{row['train_loss']:.4f}" for row in fitted.history))
    print("published             : .1842 .0518 .0386 .0289 .0239 .0206 .018 .0166 .0156 .013")
    print(f"{fitted.images_per_second:.0f} images/s in training")


if __name__ == "__main__":
    main()
