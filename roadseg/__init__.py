"""The package behind the commands: data, drawn scenes, prediction, scores, training, report."""
