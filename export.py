"""Export a trained run, or the ready network, and check that its predictions stay the same.

    python export.py --format onnx                         model.onnx, of the ready network
    python export.py --run RUN --format onnx               RUN/model.onnx
    python export.py --format openvino --output road.xml   road.xml and road.bin

Input: pictures, uint8 [N, H, W, 3], RGB, of any size. Output: probabilities, float32 [N, H, W,
classes]. Resizing, VGG16's preprocessing, calibration and softmax are inside.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from main import load_network
from roadseg import terminal
from roadseg.answering import exporting
from roadseg.answering.predictor import Predictor, nearest_shape, predict_ahead
from roadseg.command_line import HelpFormatter, add_run, exit_status
from roadseg.data.datasets import locate
from roadseg.data.layouts import subsample
from roadseg.data.pictures import read_image
from roadseg.drawn import scenes
from roadseg.errors import UserError
from roadseg.training import run_folder

PICTURES = 4  # that are compared


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Export a trained run and check that its predictions stay the same.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add_run(parser)
    add("--format", required=True, choices=list(exporting.FORMATS), help="format to write")
    add("--output", type=Path, metavar="PATH", help="default: in RUN; for the ready network here")
    return parser.parse_args(arguments)


def export(arguments, stopping):
    """Export a run. On an error nothing is left on the disk."""
    form, folder = exporting.FORMATS[arguments.format], run_folder.find_run(arguments.run)
    output = arguments.output or run_folder.output_folder(folder) / form.file_name
    exporting.refuse_what_cannot_be_written(form, output)
    network, calibration, data_set, settings = load_network(folder, "float32")
    shape = settings["image_shapes"]
    model, predict = (
        exporting.whole_network(network, calibration, shape),
        Predictor(network, calibration),
    )

    def predict_one(pictures):
        seen = predict_ahead(predict, pictures, np.asarray, nearest_shape(shape), batch_size=1)
        return np.stack([probabilities.array() for _, _, probabilities in seen])

    pictures = pictures_to_check(settings)
    model({"picture": pictures[0][None]})  # Keras exports only a model that was called
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix="partial.") as temporary,
        stopping.removing(temporary),
    ):
        path = Path(temporary) / output.name
        with terminal.quiet_standard_error(), contextlib.redirect_stdout(io.StringIO()):
            model.export(str(path), format=form.keras_name, verbose=False)
            answer = form.open(path)
            answer(pictures[0][None])
        said = exporting.compare(answer, predict_one, pictures)
        exporting.publish(Path(temporary), output.parent)
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(data_set.classes))
    terminal.say(
        f"{output}: picture, uint8 [N, H, W, 3] RGB -> probabilities, float32 [N, H, W, "
        f"{len(data_set.classes)}]: {classes}\n{said}"
    )


def pictures_to_check(settings):
    """Read some testing or labelled pictures of the run's data set, or draw some without it."""
    try:
        found, root = locate(settings["dataset"], Path(settings["data_dir"]))
        labelled, testing = found.find(root)
        chosen = subsample(testing or labelled, PICTURES)
        return [read_image(sample.picture) for sample in chosen]
    except UserError as error:
        terminal.say(f"{error}\nusing drawn scenes for the check instead")
        return [scenes.draw_scene("um", index).picture for index in range(PICTURES)]


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: export(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())
