"""The training loop and its parts: step, reduction, schedule, evaluation, checkpoint."""
