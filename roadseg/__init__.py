"""What stands behind the commands: data, drawn scenes, answers, scores, training and the report."""
