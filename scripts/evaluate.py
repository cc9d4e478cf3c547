"""Everything about how well a checkpoint classifies a set of labelled images.

    accelerate launch scripts/evaluate.py output/digits                            # the test images of its recipe
    accelerate launch scripts/evaluate.py output/digits --split validation --flip
    accelerate launch scripts/evaluate.py output/cifar10-study --data /data/cifar10 --dtype float16
    accelerate launch scripts/evaluate.py FOLDER --data org/dataset data.label_column=fine_label

writes evaluation.json and evaluation.md (accuracy, top-5, cross-entropy, calibration error, precision, recall and F1 of
every class), confusion_matrix.csv and .png, and reliability.png, into CHECKPOINT/evaluation/SPLIT or --output.

Only a command, whose name hides the package `evaluate`: scripts import from evaluation.py, and metrics.py sees to it
that it gets the package.
"""

from errors import run_command
from evaluation import main

if __name__ == "__main__":
    run_command(main)
