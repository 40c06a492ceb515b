"""Export a trained run, or the ready network, and prove that it answers as before.

    python export.py --format onnx                          model.onnx, of the ready network
    python export.py --run RUN --format onnx                RUN/model.onnx
    python export.py --format openvino --output road.xml    road.xml and road.bin
    python export.py --format openvino --precision int8     three times as fast, nearly as good

Input: pictures, uint8 [N, H, W, 3], RGB, of any size. Output: probabilities, float32 [N, H, W,
classes]. Resizing, VGG16's preprocessing, calibration and softmax are inside.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from main import load_network
from roadseg import terminal
from roadseg.answering import exporting, rounding, runtimes
from roadseg.answering.network import Predictor
from roadseg.answering.predictor import nearest_shape, predict_ahead
from roadseg.command_line import HelpFormatter, add_run, exit_status
from roadseg.data.layouts import subsample
from roadseg.data.pictures import read_image
from roadseg.drawn import scenes
from roadseg.errors import UserError
from roadseg.scoring.loss_of_rounding import compare_scores
from roadseg.training import plan, run_folder

PICTURES = 4  # that are compared one by one
QUANTIZED_ON = 80  # training pictures


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Export a trained run and prove that it answers as before.",
        formatter_class=HelpFormatter,
    )
    add, precisions = parser.add_argument, rounding.PRECISIONS
    add_run(parser)
    add("--format", required=True, choices=list(exporting.FORMATS), help="format to write")
    add("--precision", default=rounding.FLOAT32, choices=precisions, help="of the convolutions")
    add("--accept-loss", action="store_true", help="write it however much the score falls")
    add("--data-dir", type=Path, metavar="DIR", help="holds the data set; default: as in training")
    add("--output", type=Path, metavar="PATH", help="default: in RUN; for the ready network here")
    return parser.parse_args(arguments)


def export(arguments, stopping):
    """Export a run. On an error no file is left on the disk."""
    form, folder = exporting.FORMATS[arguments.format], run_folder.find_run(arguments.run)
    output = arguments.output or run_folder.output_folder(folder) / form.file_name
    exporting.refuse_what_cannot_be_written(form, output)
    rounding.refuse_what_cannot_be_rounded(arguments.format, arguments.precision)
    network, calibration, data_set, settings = load_network(folder, rounding.FLOAT32)
    exporting.refuse_several_shapes(arguments.format, settings["image_shapes"])
    settings |= {"data_dir": arguments.data_dir or settings["data_dir"]}
    exact = arguments.precision == rounding.FLOAT32
    samples = samples_to_check(settings, data_set.classes, is_needed=not exact)
    predict = Predictor(network, calibration)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix="partial.") as temporary,
        stopping.removing(temporary),
    ):
        path = Path(temporary) / output.name
        shapes = settings["image_shapes"]
        model = exporting.whole_network(network, calibration, shapes)
        answer = write(model, path, arguments, settings, samples)
        expected, pictures = one_by_one(predict, shapes), pictures_to_check(samples)
        if exact:
            said = exporting.compare(answer, expected, pictures)
        else:
            accept, (_, validation, found) = arguments.accept_loss, samples
            said = compare_scores(predict, answer, validation, found, shapes, accept)
        said += f"; {exporting.throughput(answer, expected, pictures)}"
        megabytes = sum(file.stat().st_size for file in path.parent.rglob("*")) / 1e6
        exporting.publish(Path(temporary), output.parent)
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(data_set.classes))
    terminal.say(
        f"{output}: picture, uint8 [N, H, W, 3] RGB -> probabilities, float32 [N, H, W, "
        f"{len(data_set.classes)}]: {classes}\n{megabytes:.1f} MB; {said}"
    )


def write(model, path, arguments, settings, samples):
    """Write an exported network and round it. Returns it, opened in its runtime."""
    form = exporting.FORMATS[arguments.format]
    model({"picture": np.zeros((1, 32, 32, 3), np.uint8)})  # Keras exports only what was called
    with terminal.quiet_standard_error(), contextlib.redirect_stdout(io.StringIO()):
        model.export(str(path), format=form.keras_name, verbose=False)
        if arguments.precision != rounding.FLOAT32:
            training = subsample(samples[0], QUANTIZED_ON)
            pictures = [read_image(sample.picture) for sample in training]
            rounding.ROUND[arguments.format, arguments.precision](path, pictures)
        if runtime := runtimes.RUNTIMES.get(path.suffix):
            runtime.mark(path, json.dumps(runtimes.describe(settings, arguments.precision)))
        return form.open(path)


def one_by_one(predict, shapes):
    """Make a function uint8 [N, H, W, 3] -> probabilities that answers as `predict.py` does."""

    def predict_one(pictures):
        seen = predict_ahead(predict, pictures, np.asarray, nearest_shape(shapes), batch_size=1)
        return np.stack([probabilities.array() for _, _, probabilities in seen])

    return predict_one


def samples_to_check(settings, classes, is_needed):
    """Find the run's pictures: (training samples, validation samples, row of the data set).

    classes: the run's. Where they are not there, None; with is_needed that is a UserError.
    """
    try:
        row, root = plan.find_again(settings, settings["data_dir"], classes)
        split = plan.choose_pictures(row, root, settings["seed"], settings.get("limit"))
        return split.training, split.validation, row
    except UserError as error:
        if is_needed:
            raise UserError(f"{error}; the loss of --precision is measured on them") from error
        terminal.say(f"{error}\nusing drawn scenes for the check instead")


def pictures_to_check(samples):
    """Read some validation pictures, of `samples_to_check`, or draw some without."""
    if samples is None:
        return [scenes.draw_scene("um", index).picture for index in range(PICTURES)]
    return [read_image(sample.picture) for sample in subsample(samples[1], PICTURES)]


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: export(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())
