"""Write the results of a finished training into its run folder."""

from roadseg import terminal
from roadseg.answering.network import Predictor, prediction_batch
from roadseg.engine import BFLOAT16
from roadseg.errors import UserError
from roadseg.files import write_json
from roadseg.page import gallery, report
from roadseg.scoring.evaluation import calibrate, score_pictures, score_run, score_table
from roadseg.scoring.loss_of_rounding import choose_precision
from roadseg.scoring.simple_rules import score_simple_rules
from roadseg.training import checkpoint, run_folder


def write_results(job, trained, network, save_inference_samples):
    """Load the best weights, calibrate, paint, score and write the report.

    job: Job; trained: the network that was trained; network: for prediction;
    save_inference_samples: of helper.py.
    """
    folder, data_set, shape = job.folder, job.data_set, job.settings["image_shapes"]
    training, validation, testing = job.split.parts
    network.load_weights(folder / checkpoint.BEST)
    plain, batch_size = Predictor(network, team=job.team), prediction_batch(job.team)
    fit = calibrate(plain, validation, data_set, shape, folder, batch_size)
    predict = Predictor(network, fit, job.team)
    shown, worst = gallery.TestingGallery(folder, testing), gallery.WorstPictures()
    save_inference_samples(
        folder / "pictures", predict, testing, data_set, shape, batch_size, shown.add
    )
    result, tally = score_run(
        predict, validation, data_set, job.settings, "validation", batch_size, worst.add
    )
    gallery.save(folder, tally, shown, worst)
    if "perspective" in result:
        result["simple_rules"] = score_simple_rules(training, validation, data_set)
    note = measure_bfloat16(job, trained, fit, tally)
    run_folder.note_settings(folder, {"answering_precision": note})
    write_json(folder / "metrics.json", result)
    terminal.say(f"\n{score_table(result)}\n")
    try:
        terminal.say(f"report: {report.write(folder)}")
    except UserError as error:  # the run is finished all the same
        terminal.say(error)


def measure_bfloat16(job, trained, fit, exact):
    """Score the validation part in bfloat16 too, where that was faster and nothing else is asked.

    trained: the network that was trained; fit: Calibration; exact: Tally in float32. Returns the
    choice of `choose_precision`, or None.
    """
    precisions = job.settings["precision"], job.settings["training_precision"]
    if precisions != ("auto", BFLOAT16) or job.team.processes > 1:
        return None  # of several processes all would have to load the weights, not this one alone
    trained.load_weights(job.folder / checkpoint.BEST)
    predict, shape = Predictor(trained, fit, job.team), job.settings["image_shapes"]
    batch_size = prediction_batch(job.team)
    rounded = score_pictures(predict, job.split.validation, job.data_set, shape, batch_size)
    return choose_precision(exact, rounded)
