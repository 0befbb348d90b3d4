from salun.unlearning import Task, method


@method(maskable=False)
def retrain(task: Task) -> None:
    """Retrain from scratch on the retain set by the base model's own recipe: the gold standard.

    It has no settings, because with another recipe than the base model's it would be no standard.

    Args:
        task: what to unlearn.
    """
    task.retrain()
